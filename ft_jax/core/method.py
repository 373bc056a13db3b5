"""A method is a value, and methods compose."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from ft_jax.core.outputs import Outputs
from ft_jax.core.params import Filter, Params
from ft_jax.core.state import Batch, Context, EvalEvent, StepEvent, TaskEvent, TrainState

Terms = Mapping[str, jax.Array]
Loss = Callable[[Params, Batch, Context], tuple[Terms, Outputs]]
LossTransform = Callable[[Loss], Loss]
UpdateTransform = Callable[[optax.GradientTransformationExtraArgs], optax.GradientTransformationExtraArgs]


@dataclasses.dataclass(frozen=True)
class Program:
    """The pure functions of a training run; `Method.lift` maps one to another.

    Attributes:
      init: ``(params, key) -> TrainState``; `params` is the model's tree.
      step: ``(state, batch) -> (state, metrics)``.
      evaluate: ``(state, batch) -> (terms, predictions)``, deterministic.
      after_task: ``(state, batches) -> state``.
      after_eval: ``(state, metrics) -> state``.
      trials: leading axes that predictions keep, such as ``(8,)`` for a population of eight.
    """

    init: Callable[[Params, jax.Array], TrainState]
    step: Callable[[TrainState, Batch], tuple[TrainState, Terms]]
    evaluate: Callable[[TrainState, Batch], tuple[Terms, Any]]
    after_task: Callable[[TrainState, Batch], TrainState]
    after_eval: Callable[[TrainState, Mapping[str, jax.Array]], TrainState]
    trials: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Method:
    """What a fine-tuning method says; every part has a do-nothing default.

    Attributes:
      name: its key in ``state.memory``, ``state.hyper`` and ``state.params``, such as ``"transfer.lora"``.
      hyper: its numbers (weights, temperatures, rates). They become data in the state.
      surgery: ``(params, key) -> params`` on the whole tree: operators on ``params["model"]``, its own
        parameters under ``params[name]``.
      trainable: which leaves learn; see `ft_jax.core.params.learns` for how verdicts of several combine.
      memory: ``(trainable params, key) -> pytree``, what it remembers under ``state.memory[name]``.
      view: ``(params, context) -> params``, the whole tree as the model sees it given the numbers, such as
        LoRA's scale. Merging and generating use it too.
      loss: wraps the loss, usually adding a named term.
      update: wraps the optimizer. Its update gets ``hyper``, ``memory``, ``step`` and ``gradient``, a
        function ``batch -> gradients``, as extra arguments.
      lift: maps the whole program, such as to many members at once.
      after_step, after_task, after_eval: ``(state, event) -> state``.
      reads, gives: the layout of batch its loss takes and the one it asks of its caller: ``"examples"``, or
        e.g. meta-learning's ``"episodes"``. None reads any and gives the same.
      couples: its loss compares the examples of a batch, so micro-batches would change it.
      refuses: ``parts of a composition with it -> why it can't be one of them, in a sentence, or None``.
    """

    name: str
    hyper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    surgery: Callable[[Params, jax.Array], Params] | None = None
    trainable: Filter | None = None
    memory: Callable[[Params, jax.Array], Any] | None = None
    view: Callable[[Params, Context], Params] | None = None
    loss: LossTransform | None = None
    update: UpdateTransform | None = None
    lift: Callable[[Program], Program] | None = None
    after_step: Callable[[TrainState, StepEvent], TrainState] | None = None
    after_task: Callable[[TrainState, TaskEvent], TrainState] | None = None
    after_eval: Callable[[TrainState, EvalEvent], TrainState] | None = None
    reads: str | None = None
    gives: str | None = None
    couples: bool = False
    refuses: Callable[[tuple["Method", ...]], str | None] | None = None


@dataclasses.dataclass(frozen=True)
class Composition:
    """Methods in order, outermost first: a tuple, so composing is associative and has an identity."""

    parts: tuple[Method, ...] = ()

    def __iter__(self):
        return iter(self.parts)

    def __len__(self):
        return len(self.parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The methods' names, outermost first."""
        return tuple(part.name for part in self.parts)

    def fold(self, field: str, value):
        """`value` through the parts' function `field`, innermost first: ``outer(inner(value))``."""
        for part in reversed(self.parts):
            function = getattr(part, field)
            value = value if function is None else function(value)
        return value

    def run(self, field: str, value, argument):
        """`value` through the parts' ``field(value, argument)``, innermost first."""
        for part in reversed(self.parts):
            function = getattr(part, field)
            value = value if function is None else function(value, argument)
        return value

    def has(self, field: str) -> bool:
        """Whether any part says something in `field`."""
        return any(getattr(part, field) is not None for part in self.parts)


def compose(*methods: Method | Composition) -> Composition:
    """Methods as one, the first named outermost.

    Losses, optimizers and programs are wrapped from the last named outwards; surgery, views and events run
    in the same order, from the last named to the first.

    Raises:
      ValueError: two parts with one name, a part whose loss reads a layout of batch that the part inside it does
        not give, or one that refuses the others. The sentence says which and what to do.

    Example:
      >>> compose(Method("a"), compose(Method("b"), Method("c"))).names
      ('a', 'b', 'c')
    """
    parts = tuple(part for method in methods for part in ((method,) if isinstance(method, Method) else method.parts))
    names = [part.name for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is named twice in one composition; give one of them another name with name=...")
    for part in parts:
        reason = part.refuses(parts) if part.refuses is not None else None
        if reason is not None:
            raise ValueError(reason)
    layout, giver = "examples", None
    for part in reversed(parts):
        if part.reads is not None and part.reads != layout:
            raise ValueError(
                f"{part.name} reads a batch of {part.reads}, but "
                + (f"{giver}, named after it, makes the batch {layout}; " if giver else f"the loss takes {layout}; ")
                + (f"name {part.name} after {giver}" if giver else f"name a method that gives {part.reads} after it")
            )
        if part.gives is not None and part.gives != layout:
            layout, giver = part.gives, part.name
    return Composition(parts)
