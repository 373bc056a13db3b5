"""Methods that wrap the forward pass, written down beside the model whose answers they make, and made again."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ft_jax.core import Composition, Method, Outputs, TrainState, catalogue, compose
from ft_jax.core.state import Batch
from ft_jax.core.step import outputs_of
from ft_jax.training.composition import Parts, Use
from ft_jax.training.serving.trees import Unwritable


@dataclasses.dataclass(frozen=True)
class Wrapping:
    """Methods whose forward passes stand round a model's.

    Attributes:
      method: their forward passes alone, outermost first.
      state: nothing in it learns: the parameters as the model sees them, what the methods remember, their numbers.
      fields: what they may read of an example beside what the model reads.
    """

    method: Composition
    state: TrainState
    fields: tuple[str, ...]

    def compiled(self, apply: Callable) -> Callable[[Batch], Outputs]:
        """``batch -> Outputs`` through the methods."""
        run = jax.jit(lambda state, batch: outputs_of(state, self.method, apply, batch))
        return lambda batch: run(self.state, batch)


def uses_that_wrap(methods: tuple[Any, ...], composition: Composition, parts: Parts) -> tuple[Use, ...]:
    """Those of an experiment's methods that wrap the forward pass, as they can be written down.

    Args:
      methods: of the experiment.
      composition: what they were made into.
      parts: of the run.

    Raises:
      Unwritable: one that stands there as a function or a `Method`, or has an option that is made when a run starts.
    """
    wanted, found = {name for name, _ in composition.inwards("forward")}, {}
    for use in methods if wanted else ():
        if isinstance(use, Use) and not any(hasattr(x, "build") or hasattr(x, "for_run") for x in use.options.values()):
            found |= {part.name: use for part in _wrapping(use, parts)}
    missing = sorted(wanted - found.keys())
    if missing:
        raise Unwritable(
            f'{missing[0]} wraps the forward pass and was not given as Use("family.method", ...) with plain options, '
            "which a folder could hold"
        )
    return tuple(found.values())


def described(uses: tuple[Use, ...], composition: Composition, state: TrainState, example: Batch) -> dict[str, Any]:
    """A tree of plain values and arrays from which `wrapping_of` makes the methods again.

    Args:
      uses: of `uses_that_wrap`.
      composition: of the run.
      state: whose parameters are the whole tree as the model sees it; or its shapes.
      example: a batch of the run, whose shapes are kept.
    """
    names = {name for name, _ in composition.inwards("forward")}
    own = {part: {name: tree for name, tree in getattr(state, part).items() if name in names} for part in OWN}
    shapes = jax.tree.map(lambda x: {"shape": list(np.shape(x)), "dtype": str(np.asarray(x).dtype)}, dict(example))
    key = [] if isinstance(state.key, jax.ShapeDtypeStruct) else jax.random.key_data(state.key).tolist()
    methods = [{"name": use.name, "options": dict(use.options)} for use in uses]
    return {"methods": methods, "example": shapes, **own, "step": state.step, "key": key}


OWN = ("params", "memory", "hyper")
"""Parts of a state that have an entry for each method."""


def wrapping_of(told: Mapping[str, Any], model: Any) -> Wrapping:
    """The methods of `described`, round a model with the parameters that the run left.

    Raises:
      KeyError, ValueError: a method or an option that this version does not have.
    """
    example = jax.tree.map(lambda x: np.zeros(x["shape"], x["dtype"]), told["example"], is_leaf=lambda x: "dtype" in x)
    parts = Parts(model, example, 1, jax.random.key(0))
    uses = [Use(one["name"], **one["options"]) for one in told["methods"]]
    whole = {"model": model.params, **told["params"]}
    state = TrainState(
        step=told["step"],
        params=jax.tree.map(lambda leaf: None, whole),
        frozen=whole,
        opt_state=(),
        memory=told["memory"],
        hyper=told["hyper"],
        key=jax.random.wrap_key_data(np.asarray(told["key"], np.uint32)),
    )
    fields = tuple(field for use in uses for field in catalogue[use.name].needs)
    return Wrapping(compose(*(part for use in uses for part in _wrapping(use, parts))), state, fields)


def _wrapping(use: Use, parts: Parts) -> list[Method]:
    """The forward passes of a use, and nothing else of it."""
    built = compose(use.build(parts))
    return [Method(part.name, forward=part.forward, collects=part.collects) for part in built if part.forward]
