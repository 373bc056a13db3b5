"""What methods with a trained teacher share: its frozen parameters, its forward pass, what can't be compared."""

from collections.abc import Callable, Mapping, Sequence

import jax
from jax import Array

from ft_jax.core.losses import divergence, scale_term
from ft_jax.core.method import Method, Terms
from ft_jax.core.outputs import Outputs
from ft_jax.core.params import Params, never
from ft_jax.core.state import Context
from ft_jax.core.weights import shape


def of_logits(
    name: str,
    apply: Callable,
    params: Params,
    row_loss: Callable,
    hyper: Mapping[str, float],
    weight: float,
    hard_weight: float | None,
    labelled: bool = False,
) -> Method:
    """A method whose term is ``weight`` times the mean of a loss of every position's two rows of logits.

    Args:
      name: the method's; the teacher's frozen parameters stand under it.
      apply, params: the teacher's.
      row_loss: ``(student's logits, teacher's logits, hyper) -> [batch, ...]``, and labels last where `labelled`.
      hyper: its numbers.
      weight: of the term.
      hard_weight: of the task's term; None leaves that out.
      labelled: `row_loss` takes the labels, with 0 where none counts.
    """
    numbers = {"weight": weight, **hyper} | ({} if hard_weight is None else {"hard_weight": hard_weight})

    def loss(inner):
        def distilled(learned, batch, context):
            terms, student = inner(learned, batch, context)
            own = context.hyper[name]
            if labelled and "labels" not in batch:
                if context.train:
                    raise KeyError(f"{name} reads 'labels', and the batch has {', '.join(sorted(batch))}; add them")
                return terms, student
            theirs = taught(apply, context.join(learned)[name], batch)
            refuse_mismatch(student, theirs, name)
            aligned = jax.numpy.maximum(batch["labels"], 0) if labelled else None
            apart = divergence(row_loss, student, theirs, batch, own, aligned=aligned)
            return beside_task(terms, name, own, apart), student

        return distilled

    return Method(
        name=name,
        hyper=numbers,
        surgery=holding(name, params),
        trainable=never(f"{name}/*"),
        loss=loss,
        drops=() if "hard_weight" in numbers else ("task",),
        reads="examples",
    )


def beside_task(terms: Terms, name: str, numbers: Mapping[str, Array], apart: Array) -> Terms:
    """Terms with ``weight ·`` a divergence under the name; the task's times ``hard_weight`` or, at None, left out."""
    return {**scale_term(terms, "task", numbers.get("hard_weight")), name: numbers["weight"] * apart}


def holding(name: str, params: Params) -> Callable:
    """A surgery that puts a teacher's parameters under the method's name."""
    return lambda tree, key: {**tree, name: params}


def taught(apply: Callable, params: Params, batch) -> Outputs:
    """The teacher's outputs, without dropout and not differentiated."""
    return jax.lax.stop_gradient(apply(params, batch, None))


def collecting(apply: Callable, states: Sequence[str]) -> Callable:
    """`apply` with states among its outputs, where it can collect them."""
    return apply.collecting(tuple(states)) if hasattr(apply, "collecting") else apply


def averages(name: str) -> dict[str, Callable]:
    """A method's fields that keep the moving average of what learns as its memory, by its number ``decay``."""

    def after_step(state, event):
        decay = state.hyper[name]["decay"]
        moved = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p.astype(a.dtype), state.memory[name], state.params)
        return state.remember(name, moved)

    start = lambda params, key: jax.tree.map(lambda p: jax.numpy.array(p, jax.numpy.float32), params)  # noqa: E731
    return {"memory": start, "after_step": after_step}


def taught_by_average(apply: Callable, learned: Params, batch, context: Context, name: str) -> Outputs:
    """The outputs of a method's average, in the types of what learns, without dropout and not differentiated."""
    average = jax.tree.map(lambda a, p: a.astype(p.dtype), context.memory[name], learned)
    return jax.lax.stop_gradient(context.replace(train=False).run(apply, average, batch))


def check_temperature(temperature: float, name: str) -> None:
    """Raises ValueError on a temperature that is not positive."""
    if not temperature > 0:
        raise ValueError(f"{name} has temperature {temperature}; give it a positive one, such as 2.0")


def refuse_mismatch(student: Outputs, teacher: Outputs, name: str) -> None:
    """Raises ValueError where logits can't be compared row by row."""
    for role, outputs in (("student", student), ("teacher", teacher)):
        if outputs.unembedding is None:
            raise ValueError(
                f"{name} compares logits, but the {role} has no head; give it an apply with an unembedding"
            )
    classes = [shape(outputs.unembedding)[1] for outputs in (student, teacher)]
    if classes[0] != classes[1]:
        raise ValueError(
            f"{name} compares logits over one vocabulary, but the student has {classes[0]} classes and the teacher "
            f"{classes[1]}; choose a teacher with the student's tokenizer or classes"
        )
    positions = [outputs.hidden.shape[:-1] for outputs in (student, teacher)]
    if positions[0] != positions[1]:
        raise ValueError(
            f"{name} compares logits position by position, but the student's are {positions[0]} and the teacher's "
            f"{positions[1]}; give both models outputs for the same positions"
        )
