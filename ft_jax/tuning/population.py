"""Trials that differ in numbers, trained as members of one compiled program."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import register
from ft_jax.core.members import map_members
from ft_jax.core.method import Method
from ft_jax.core.params import nearest
from ft_jax.core.program import Program


@register(
    "tuning",
    paper="Jaderberg et al. 2017, arXiv:1711.09846 (the population; its exploit and explore act on it between steps)",
    example=lambda problem: population({"optimizer.learning_rate": [1e-3, 3e-3]}),
    neutral="its trials are whole runs without a weight; the members law compares each with a run of its own",
)
def population(numbers: Mapping[str, Sequence[float]], *, name: str = "tuning.population") -> Method:
    """Trains one trial per value of some numbers, all in one program on one frozen base.

    Trial ``i`` has ``hyper[number] = numbers[number][i]`` and everything else alike, the key included, so
    trials differ by their numbers alone. The learned part, the optimizer's state and the memories exist
    once per trial, the frozen base once for all. Evaluation gives one prediction per trial.

    Args:
      numbers: ``"method.number"`` to the trials' values, all of one length:
        ``{"optimizer.learning_rate": [1e-4, 1e-3], "distillation.logits.weight": [0.5, 1.0]}``.
      name: the method's name.

    Raises:
      ValueError: no numbers, or lists of different lengths.
      KeyError: when the state is made, for a number that no method has, with the nearest ones.

    Example:
      >>> population({"optimizer.learning_rate": [1e-3, 1e-2]}).name
      'tuning.population'
    """
    lengths = {number: len(values) for number, values in numbers.items()}
    if not numbers or len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"{name} needs one value per trial for each number, got lengths {lengths}; make them equal")
    count = next(iter(lengths.values()))

    def lift(program: Program, build) -> Program:
        lifted = map_members(program, count, keys=lambda key: jnp.broadcast_to(key, (count,)))

        def init(params, key):
            state = lifted.init(params, key)
            return state.replace(hyper=_spread(state.hyper, numbers))

        return dataclasses.replace(lifted, init=init)

    return Method(name=name, lift=lift)


def _spread(hyper, numbers):
    hyper = {name: dict(values) for name, values in hyper.items()}
    for full, values in numbers.items():
        name, _, number = full.rpartition(".")
        if number not in hyper.get(name, {}):
            known = [f"{owner}.{one}" for owner, its in hyper.items() for one in its]
            raise KeyError(f"the population varies {full!r}, which nothing has; the nearest are {nearest(full, known)}")
        old: jax.Array = hyper[name][number]
        column = jnp.asarray(values, old.dtype).reshape(-1, *(1,) * (old.ndim - 1))
        hyper[name][number] = jnp.broadcast_to(column, old.shape)
    return hyper
