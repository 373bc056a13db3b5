"""Methods that make their own batch out of what the data gives: one of them to a composition."""

from collections.abc import Callable

from ft_jax.core.method import Method


def only_source(name: str, layout: str) -> Callable[[tuple[Method, ...]], str | None]:
    """`Method.refuses` of a method that prepares a batch of its own from the data's `layout`.

    Example:
      >>> grpo = Method("rl.grpo", prepare=lambda *a: a, gives="prompts", refuses=only_source("rl.grpo", "prompts"))
      >>> kto = Method("rl.kto", prepare=lambda *a: a, gives="judgements")
      >>> grpo.refuses((kto, grpo))
      'rl.grpo makes its batch of prompts and rl.kto of judgements, and the data gives one of them; leave one out'
    """

    def refuses(parts):
        found = {part.name: part.gives for part in parts if part.prepare is not None}
        found = {other: gives for other, gives in found.items() if gives not in (None, "examples")} | {name: layout}
        if len(found) < 2:
            return None
        (one, first), (other, second) = sorted(found.items())[:2]
        return (
            f"{one} makes its batch of {first} and {other} of {second}, and the data gives one of them; leave one out"
        )

    return refuses
