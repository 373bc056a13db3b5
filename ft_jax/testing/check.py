"""All laws that apply to a method, wherever it is written."""

from collections.abc import Callable
from typing import Any

from ft_jax.core import Composition, Method, Neutral, Problem
from ft_jax.core.state import Batch
from ft_jax.testing import laws, separate
from ft_jax.testing.quick import few_optimisations
from ft_jax.testing.subject import Subject


class LawBroken(AssertionError):
    """A method does not keep a law."""


def check_laws(
    method: Method | Composition | Callable[[Problem], Any],
    *,
    batch: Callable[[Batch], Batch] | None = None,
    neutral: Neutral | str = "no neutral point was given for it",
    pretrained: bool = True,
    mergeable: bool = True,
    layers: int = 1,
    thorough: bool = False,
) -> dict[str, str]:
    """Checks that a method composes: the laws that every method of the catalogue keeps, on a tiny decoder.

    Call `compile_quickly` before anything is computed: it gives the virtual devices that two of the laws need.

    Args:
      method: the method, or ``problem -> method`` for one that is built for a network, see
        `ft_jax.core.catalogue.Problem`.
      batch: from the problem's batch to the one that the method trains on.
      neutral: the numbers at which it trains like the step without it, or why there are none.
      pretrained: right after surgery the outputs equal the base's.
      mergeable: its operators can be merged into dense weights.
      layers: of the decoder.
      thorough: each law by itself as well, several times slower.

    Returns:
      Each law, with ``"holds"`` or the reason why it does not apply.

    Raises:
      LawBroken: with the law, where it broke, and which laws break by themselves where one holds several.

    Example:
      >>> from ft_jax.core import Method
      >>> def halved(inner):
      ...     def loss(params, batch, context):
      ...         terms, outputs = inner(params, batch, context)
      ...         return {name: context.hyper["my.half"]["share"] * term for name, term in terms.items()}, outputs
      ...     return loss
      >>> half = Method("my.half", hyper={"share": 0.5}, loss=halved)
      >>> told = check_laws(half, neutral=Neutral({"share": 1.0}))
      >>> told["zero_strength_is_the_step_without_the_method"], told["padding_counts_nothing"]
      ('holds', 'holds')
    """
    built = method if callable(method) else lambda problem: method
    options = {"neutral": neutral, "pretrained": pretrained, "mergeable": mergeable, "layers": layers}
    with few_optimisations():
        subject = Subject(built, batch=batch, **options)
        asked = (*laws.LAWS, *(separate.SEPARATE if thorough else ()))
        return {law.__name__: check_law(subject, law) or "holds" for law in asked}


def check_law(subject: Subject, law: Callable) -> str | None:
    """The reason why a law does not apply, None where it holds; raises a `LawBroken` where it does not."""
    try:
        return law(subject)
    except AssertionError as error:
        raise LawBroken(_told(subject, law, error)) from error


def _told(subject: Subject, law: Callable, error: AssertionError) -> str:
    sentence = f"{subject.name} breaks a law, {law.__name__.replace('_', ' ')}: {law.__doc__.splitlines()[0]}\n{error}"
    if law is not laws.members_devices_and_micro_batches_change_nothing:
        return sentence
    broken = [one.__name__.replace("_", " ") for one in separate.SEPARATE if not _holds(one, subject)]
    return f"{sentence}\nBy themselves these break: {', '.join(broken) or 'none; it is their combination'}"


def _holds(law, subject) -> bool:
    try:
        law(subject)
    except AssertionError:
        return False
    return True
