"""A method is a value, and methods compose."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import optax

from ft_jax.core.outputs import Outputs
from ft_jax.core.params import Filter, Params
from ft_jax.core.program import Program
from ft_jax.core.state import Batch, Context, EvalEvent, StepEvent, TaskEvent, TrainState
from ft_jax.outside import check_name

Terms = Mapping[str, jax.Array]
Loss = Callable[[Params, Batch, Context], tuple[Terms, Outputs]]
LossTransform = Callable[[Loss], Loss]
Forward = Callable[[Params, Batch, Context], Outputs]
ForwardTransform = Callable[[Forward], Forward]
UpdateTransform = Callable[[optax.GradientTransformationExtraArgs], optax.GradientTransformationExtraArgs]


@dataclasses.dataclass(frozen=True, repr=False)
class Method:
    """What a fine-tuning method says; every part has a do-nothing default.

    Attributes:
      name: its key in ``state.memory``, ``state.hyper`` and ``state.params``, such as ``"transfer.lora"``.
      hyper: its numbers (weights, temperatures, rates). They become data in the state.
      surgery: ``(params, key) -> params`` on the whole tree: operators on ``params["model"]``, its own
        parameters under ``params[name]``.
      trainable: which leaves learn; see `ft_jax.core.params.learns` for how verdicts of several combine.
      learned: ``(trainable params, key) -> pytree``, parameters of its own that learn too and are made from what
        learns, such as a rate for each of them; they stand under ``params[name]``, where surgery put nothing.
      memory: ``(trainable params, key) -> pytree``, what it remembers under ``state.memory[name]``.
      prepare: ``(state, batch, context) -> (state, batch)`` on the whole batch, before it is cut into micro-batches
        and before weights become shares: weights of examples, augmentation, more examples, rollouts. An evaluation
        prepares too and drops the state.
      view: ``(params, context) -> params``, the whole tree as the model sees it given the numbers, such as
        LoRA's scale. Merging and generating use it too.
      forward: wraps the forward pass ``(params, batch, context) -> Outputs`` that training, evaluation and serving
        share (`Context.run`): what depends on the example, such as an adapter chosen for it.
      collects: states that it reads of the outputs, as a network's ``collect`` names them: ``"attention"``.
      loss: wraps the loss, usually adding a named term.
      weighs, drops: terms of the loss that it reads by name, and that it leaves out.
      update: wraps the optimizer, whose update gets an `UpdateEvent` as its extra argument ``event``.
      per_term: its update asks for the gradient of each term. The step then forms these alone; their sum is the
        gradient.
      settle: ``state -> state``, what evaluation, saving and export use in place of the training state: averaged
        parameters. Training goes on with what it was.
      report: ``state -> {name: scalar}`` for the step's metrics.
      lift: ``(program, build) -> program`` maps the whole program, such as to many members at once;
        ``build(composition)`` makes another one of the same loss, optimizer and options, ``build(composition, loss)``
        one of another loss, such as that of another network; with ``place=name`` the composition stands in that
        part's place, and the run's other parts that lift nothing stay round it.
      after_step, after_task, after_eval: ``(state, event) -> state``.
      aligned: its ``after_task`` is called again and again, over one pass through all of the task's examples: each
        exactly once and in the data's order, a stack of batches a call, filled up with rows of weight 0. Others see
        once the batches that the task drew last.
      reads, gives: the layout of batch its loss takes and the one it asks of its caller: ``"examples"``, or
        e.g. meta-learning's ``"episodes"``. None reads any and gives the same. Of a method that prepares, they are
        what it makes for the losses and what it asks of the data.
      fields: of the examples that its loss reads beside the network's inputs, labels and weights.
      refuses: ``parts of a composition with it -> why it can't be one of them, in a sentence, or None``.
    """

    name: str
    hyper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    surgery: Callable[[Params, jax.Array], Params] | None = None
    trainable: Filter | None = None
    learned: Callable[[Params, jax.Array], Params] | None = None
    memory: Callable[[Params, jax.Array], Any] | None = None
    prepare: Callable[[TrainState, Batch, Context], tuple[TrainState, Batch]] | None = None
    view: Callable[[Params, Context], Params] | None = None
    forward: ForwardTransform | None = None
    collects: tuple[str, ...] = ()
    loss: LossTransform | None = None
    weighs: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    update: UpdateTransform | None = None
    per_term: bool = False
    settle: Callable[[TrainState], TrainState] | None = None
    report: Callable[[TrainState], Mapping[str, jax.Array]] | None = None
    lift: Callable[[Program, Callable[["Composition"], Program]], Program] | None = None
    after_step: Callable[[TrainState, StepEvent], TrainState] | None = None
    after_task: Callable[[TrainState, TaskEvent], TrainState] | None = None
    after_eval: Callable[[TrainState, EvalEvent], TrainState] | None = None
    aligned: bool = False
    reads: str | None = None
    gives: str | None = None
    fields: tuple[str, ...] = ()
    refuses: Callable[[tuple["Method", ...]], str | None] | None = None

    def __repr__(self):
        numbers = "".join(f", {name}={value:g}" for name, value in self.hyper.items())
        return f"Method({self.name!r}{numbers})"

    @property
    def kind(self) -> tuple[str, ...]:
        """What it says, by the names of its fields."""
        named = {"name", "hyper", "weighs", "drops", "aligned", "reads", "gives", "fields", "refuses"}
        fields = [field.name for field in dataclasses.fields(self) if field.name not in named]
        return tuple(field for field in fields if getattr(self, field))


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

    def inwards(self, field: str) -> tuple[tuple[str, Callable], ...]:
        """What the parts say in `field`, ``(name, function)`` from the innermost to the outermost."""
        said = [(part.name, getattr(part, field)) for part in reversed(self.parts)]
        return tuple((name, function) for name, function in said if function is not None)

    def fold(self, field: str, value, *arguments):
        """`value` through the parts' function `field`, innermost first: ``outer(inner(value))``."""
        for _, function in self.inwards(field):
            value = function(value, *arguments)
        return value


def compose(*methods: Method | Composition) -> Composition:
    """Methods as one, the first named outermost.

    Losses, optimizers and programs are wrapped from the last named outwards; surgery, views and events run
    in the same order, from the last named to the first.

    Raises:
      TypeError: something that is no method, such as a constructor that was not called.
      ValueError: two parts with one name or one that deceives, a part whose loss reads a layout of batch that the part
        inside it does not give, a field of the data's examples where another makes the examples, a term that one weighs
        and another leaves out, or one that refuses the others. The sentence says which and what to do.

    Example:
      >>> compose(Method("a"), compose(Method("b"), Method("c"))).names
      ('a', 'b', 'c')
    """
    parts = tuple(part for method in methods for part in _parts(method))
    names = [part.name for part in parts]
    for name in names:
        check_name("method", name)
        if names.count(name) > 1:
            raise ValueError(f"{name} is named twice in one composition; give one of them another name with name=...")
    for part in parts:
        reason = part.refuses(parts) if part.refuses is not None else None
        if reason is not None:
            raise ValueError(reason)
    _check_layouts(parts)
    _check_fields(parts)
    _check_terms(parts)
    return Composition(parts)


def _parts(value) -> tuple[Method, ...]:
    if isinstance(value, Composition):
        return value.parts
    if isinstance(value, Method):
        return (value,)
    called = f"; call it: {value.__name__}(...)" if callable(value) and hasattr(value, "__name__") else ""
    raise TypeError(f"compose takes methods and compositions, and got {value!r:.80}{called or '; give it a Method'}")


def layout_of(parts: Iterable[Method]) -> tuple[str, str | None]:
    """The layout of the batch that the data gives to a composition, and the part that asks for it.

    Example:
      >>> layout_of((Method("a"), Method("b", gives="episodes")))
      ('episodes', 'b')
    """
    return _given(_nested(parts))


def _given(nested: list[Method]) -> tuple[str, str | None]:
    layout, giver = "examples", None
    for part in nested:
        if part.gives is not None and part.gives != layout:
            layout, giver = part.gives, part.name
    return layout, giver


def _nested(parts: Iterable[Method]) -> list[Method]:
    """Losses from the innermost outwards, and then preparations, whose batch the losses take."""
    parts = list(parts)
    return [part for part in reversed(parts) if part.prepare is None] + [part for part in parts if part.prepare]


def _check_layouts(parts: tuple[Method, ...]) -> None:
    """Refuses losses, and then preparations, whose layouts of batch don't follow one another."""
    nested = _nested(parts)
    for place, part in enumerate(nested):
        layout, giver = _given(nested[:place])
        if part.reads is None or part.reads == layout:
            continue
        if part.prepare is not None:
            raise ValueError(
                f"{part.name} makes a batch of {part.reads}, but {giver or 'the loss'} takes {layout}; "
                "leave one of them out"
            )
        other = next((one for one in nested[:place] if one.name == giver), None)
        if other is not None and other.reads is not None and part.gives not in (None, other.reads):
            one, two = sorted((part, other), key=lambda part: part.name)
            raise ValueError(
                f"{one.name} makes {one.gives} of {one.reads} and {two.name} {two.gives} of {two.reads}, so neither "
                "fits into the other; leave one of the two out"
            )
        raise ValueError(
            f"{part.name} reads a batch of {part.reads}, but "
            + (f"{giver}, named after it, makes the batch {layout}; " if giver else f"the loss takes {layout}; ")
            + (f"name {part.name} after {giver}" if giver else f"name a method that gives {part.reads} after it")
        )


MADE = ("prompts", "seeds")
"""Layouts of data without examples for a loss: a preparation makes them."""
NESTED = ("episodes", "preferences")
"""Layouts whose rows hold several examples, out of sight of a preparation that looks for fields."""


def _check_fields(parts: tuple[Method, ...]) -> None:
    """Refuses a part that reads fields of the data's examples where another makes the examples, or several a row."""
    layout, giver = layout_of(parts)
    preparing = next((part for part in parts if part.fields and part.prepare), None)
    if layout in NESTED and preparing is not None:
        raise ValueError(
            f"{preparing.name} reads {preparing.fields[0]!r} of a batch's rows, but {giver} takes {layout}, whose rows "
            "hold several examples; leave one of the two out"
        )
    reader = next((part for part in parts if part.fields), None)
    if layout in MADE and reader is not None:
        raise ValueError(
            f"{reader.name} reads {reader.fields[0]!r} of the data's examples, but {giver} makes its examples from "
            f"{layout}; leave one of the two out"
        )


def _check_terms(parts: tuple[Method, ...]) -> None:
    """Refuses a part that weighs a term which another leaves out."""
    for part, other in itertools.permutations(parts, 2):
        lost = [term for term in part.weighs if term in other.drops]
        if lost:
            raise ValueError(
                f"{part.name} weighs term {lost[0]!r}, which {other.name} leaves out of the loss; "
                f"name terms of {other.name} in {part.name}, or leave one of the two out"
            )
