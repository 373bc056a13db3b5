"""Methods written on a command line: ``transfer.lora(rank=8)``, read as a value and never run."""

import ast
import inspect
from collections.abc import Sequence
from typing import Any

from ft_jax.core.catalogue import catalogue
from ft_jax.core.params import nearest
from ft_jax.outside import one_line, printable
from ft_jax.training import own_data, specs
from ft_jax.training.composition import MethodLike, Use

SPECS = {
    "Altered": own_data.Altered,
    "CommonTokens": own_data.CommonTokens,
    "Pretrained": specs.Pretrained,
    "Verified": own_data.Verified,
}
"""Specs that an option may be: a teacher, ``distillation.logits(params=Pretrained("hf://org/model"))``, a reward,
the tokens that a teacher has in common with the student, or an augmentation."""

MORE = "+"
"""Before the first method: add to the experiment's methods, outermost, in place of replacing them."""


def methods_of(texts: Sequence[str], before: tuple[MethodLike, ...]) -> tuple[MethodLike, ...]:
    """The methods that texts name, outermost first.

    Args:
      texts: one each, such as ``["adaptive.uncertainty(terms=('task',))", "transfer.lora(rank=8)"]``. A ``+`` before
        the first keeps the experiment's methods inside; ``none`` alone is no method.
      before: the experiment's.

    Raises:
      ValueError: what is no call of a method with plain values, an option that the method doesn't have.
      KeyError: an unknown method, with the nearest ones.

    Example:
      >>> methods_of(["transfer.lora(4, alpha=8.0)"], ())
      (Use('transfer.lora', rank=4, alpha=8.0),)
      >>> methods_of(["+incremental.ewc"], (Use("transfer.lora"),))
      (Use('incremental.ewc'), Use('transfer.lora'))
    """
    texts = [text.strip() for text in texts]
    if not texts or texts == [""]:
        raise ValueError('--method needs methods, such as "transfer.lora(rank=8)"; none takes all of them away')
    if texts == ["none"]:
        return ()
    more = texts[0].startswith(MORE)
    uses = tuple(use_of(text.removeprefix(MORE) if index == 0 else text) for index, text in enumerate(texts))
    return (*uses, *before) if more else uses


def use_of(text: str) -> Use:
    """One method that a text names.

    Raises:
      ValueError, KeyError: as `methods_of`.

    Example:
      >>> use_of("transfer.lora(rank=8, targets=['*query/kernel'])")
      Use('transfer.lora', rank=8, targets=['*query/kernel'])
    """
    try:
        node = ast.parse(text, mode="eval").body
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        said = error.msg if isinstance(error, SyntaxError) else one_line(error, 60)
        raise ValueError(
            f"--method {printable(text)} can't be read ({said}); write family.name(option=value)"
        ) from None
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    name = _name(call.func)
    if name is None:
        raise ValueError(
            f"--method {printable(text)} is no method; write family.name(option=value), ft-jax methods lists them"
        )
    signature = inspect.signature(catalogue[name].build)
    positional = [option for option, one in signature.parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    if len(call.args) > len(positional):
        raise ValueError(f"{name} takes {len(positional)} values without a name, got {len(call.args)}; name the rest")
    options = dict(zip(positional, (_value(one, text) for one in call.args), strict=False))
    for keyword in call.keywords:
        if keyword.arg is None:
            raise ValueError(f"--method {printable(text)} has ** in it; write every option by its name")
        if keyword.arg in options:
            raise ValueError(f"{name} got several values for {printable(keyword.arg)}; give it one")
        options[keyword.arg] = _value(keyword.value, text)
    use = Use(name, **options)
    use.check()
    return use


def _name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return None


def _value(node: ast.expr, text: str) -> Any:
    """A literal, or a model spec of literals."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id not in SPECS:
            raise ValueError(
                f"--method {printable(text)} calls {printable(node.func.id)}; the nearest that it may are "
                f"{nearest(node.func.id, SPECS)}"
            )
        arguments = [_value(one, text) for one in node.args]
        options = {keyword.arg: _value(keyword.value, text) for keyword in node.keywords if keyword.arg}
        try:
            return SPECS[node.func.id](*arguments, **options)
        except TypeError as error:
            raise ValueError(f"--method {printable(text)}: {error}") from None
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(
            f"--method {printable(text)} has {printable(ast.unparse(node))} in it, which is no plain value; put texts "
            "in quotes, or write the method in a file"
        ) from None
