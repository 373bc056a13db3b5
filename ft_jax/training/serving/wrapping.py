"""Methods that stand between a model and its answers, written down beside it, and made again.

They wrap the forward pass, or map the whole program so that several members or draws are fused into one answer.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from ft_jax.core import Composition, Method, Outputs, TrainState, catalogue, compose, make_step
from ft_jax.core.losses import forward
from ft_jax.core.state import Batch
from ft_jax.core.step import outputs_of
from ft_jax.training.composition import Parts, Use
from ft_jax.training.serving.trees import Unwritable

WRAPS = ("forward", "collects")
FUSES = ("lift", "settle", "view", "hyper", *WRAPS)
"""Fields of a method that its answers need: where one state gives them, and where several are fused."""


@dataclasses.dataclass(frozen=True)
class Wrapping:
    """Methods that stand round a model.

    Attributes:
      method: what answers need of them, outermost first.
      state: nothing in it learns: the parameters as the model sees them, what the methods remember, their numbers.
        Where answers are fused it is the run's own, with the axes of its members.
      fields: what they may read of an example beside what the model reads.
    """

    method: Composition
    state: TrainState
    fields: tuple[str, ...]

    @property
    def fused(self) -> bool:
        """Whether answers are several members' or draws' together."""
        return bool(self.method.inwards("lift"))

    def compiled(self, apply: Callable) -> Callable[[Batch], Outputs]:
        """``batch -> Outputs`` through the methods; of fused answers their logits alone."""
        if self.fused:
            evaluate = make_step(forward(apply), optax.identity(), self.method).evaluate
            answer = jax.jit(lambda state, batch: evaluate(state, batch).predictions)
            return lambda batch: Fused(hidden=answer(self.state, batch))
        run = jax.jit(lambda state, batch: outputs_of(state, self.method, apply, batch))
        return lambda batch: run(self.state, batch)


class Fused(Outputs):
    """The answers of several members or draws: logits, with no vectors behind them."""

    @property
    def logits(self):
        return self.hidden


def uses_of(methods: tuple[Any, ...], wanted: Composition, parts: Parts) -> tuple[Use, ...]:
    """Those of an experiment's methods that stand round the model, as they can be written down.

    Args:
      methods: of the experiment.
      wanted: what stands round it, of `around`.
      parts: of the run.

    Raises:
      Unwritable: one that stands there as a function or a `Method`, or has an option that is made when a run starts.
    """
    names, found = set(wanted.names), []
    for use in methods if names else ():
        if isinstance(use, Use) and not any(hasattr(x, "build") or hasattr(x, "for_run") for x in use.options.values()):
            own = names.intersection(part.name for part in compose(use.build(parts)))
            found += [(use, own)] if own else []
    missing = sorted(names.difference(*(own for _, own in found)))
    if missing:
        does = "fuses its members" if wanted.inwards("lift") else "wraps the forward pass"
        raise Unwritable(
            f'{missing[0]} {does} and was not given as Use("family.method", ...) with plain options, '
            "which a folder could hold"
        )
    return tuple(use for use, _ in found)


def around(composition: Composition, fused: bool) -> Composition:
    """What answers need of methods, see `WRAPS` and `FUSES`."""
    own = ("lift", "settle", "view", "forward") if fused else ("forward",)
    parts = [part for part in composition if any(getattr(part, field) is not None for field in own)]
    fields = FUSES if fused else WRAPS
    return compose(*(Method(part.name, **{field: getattr(part, field) for field in fields}) for part in parts))


def described(uses: tuple[Use, ...], wanted: Composition, state: TrainState, example: Batch) -> dict[str, Any]:
    """A tree of plain values and arrays from which `wrapping_of` makes the methods again.

    Args:
      uses: of `uses_of`.
      wanted: of `around`.
      state: whose parameters are the whole tree as the model sees it, or, where answers are fused, the run's own; or
        its shapes.
      example: a batch of the run, whose shapes are kept.
    """
    fused = bool(wanted.inwards("lift"))
    own = {part: {name: tree for name, tree in getattr(state, part).items() if name in wanted.names} for part in OWN}
    shapes = jax.tree.map(lambda x: {"shape": list(np.shape(x)), "dtype": str(np.asarray(x).dtype)}, dict(example))
    key = [] if isinstance(state.key, jax.ShapeDtypeStruct) else jax.random.key_data(state.key).tolist()
    methods = [{"name": use.name, "options": dict(use.options)} for use in uses]
    whole = {"params": state.params, "frozen": state.frozen} if fused else {"frozen": None}
    return {"methods": methods, "example": shapes, **own, **whole, "step": state.step, "key": key}


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
    learned, frozen = told["params"], told.get("frozen")
    fused = frozen is not None
    if not fused:
        frozen = {"model": model.params, **learned}
        learned = jax.tree.map(lambda leaf: None, frozen)
    state = TrainState(
        step=told["step"],
        params=learned,
        frozen=frozen,
        opt_state=(),
        memory=told["memory"],
        hyper=told["hyper"],
        key=jax.random.wrap_key_data(np.asarray(told["key"], np.uint32)),
    )
    fields = tuple(field for use in uses for field in catalogue[use.name].needs)
    return Wrapping(around(compose(*(use.build(parts) for use in uses)), fused), state, fields)
