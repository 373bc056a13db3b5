"""What a constructor is given, held against what its signature says, in a sentence."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

WORDS = {float: "a number", int: "a whole number", str: "a text", bool: "True or False"}
MANY = (tuple, list, Sequence, Collection, Iterable, set, frozenset)


def checked(name: str, build: Callable) -> Callable:
    """`build`, which refuses a value that its annotations rule out, before it does anything.

    Only plain values are judged: numbers, texts, and sequences and mappings of them. A number may be an array. What an
    annotation says that is none of these, such as a type of this package, is left to the constructor.

    Args:
      name: of what is built, for the sentence.
      build: annotated.

    Example:
      >>> def scaled(weight: float = 1.0): return weight
      >>> checked("mine.scaled", scaled)(weight="16")
      Traceback (most recent call last):
      ValueError: mine.scaled has weight '16'; give it a number
    """
    judge = _Judge(name, build)

    def given(*args, **options):
        judge(args, options)
        return build(*args, **options)

    # Its globals are the constructor's, by which doctest knows a function for its module's own.
    own = types.FunctionType(given.__code__, build.__globals__, build.__name__, None, given.__closure__)
    return functools.update_wrapper(own, build)


class _Judge:
    """Raises ValueError on arguments that the annotations of `build` rule out."""

    def __init__(self, name: str, build: Callable):
        self.name, self.build, self.signature = name, build, inspect.signature(build)
        self.hints: dict[str, Any] | None = None  # read at the first call, when every module is there

    def __call__(self, args: tuple, options: Mapping[str, Any]) -> None:
        if self.hints is None:
            self.hints = _hints(self.build)
        try:
            bound = self.signature.bind_partial(*args, **options).arguments
        except TypeError:
            return  # the constructor says it
        for option, value in bound.items():
            parameter = self.signature.parameters[option]
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or option not in self.hints:
                continue
            if value is not parameter.default and not fits(value, self.hints[option]):
                raise ValueError(f"{self.name} has {option} {value!r:.60}; give it {said(self.hints[option])}")


def _hints(build) -> dict[str, Any]:
    try:
        return {name: hint for name, hint in typing.get_type_hints(build).items() if name != "return"}
    except (NameError, TypeError, AttributeError):
        return {}


def _origin(annotation: Any) -> Any:
    origin = typing.get_origin(annotation)
    return typing.Union if origin is types.UnionType else origin


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value can be what an annotation says; True where that is not about plain values.

    Example:
      >>> fits(3, float), fits("3", float), fits("abc", tuple[str, ...]), fits(("a", 1), tuple[str, ...])
      (True, False, False, False)
    """
    origin, arguments = _origin(annotation), typing.get_args(annotation)
    if origin is typing.Union:
        return any(fits(value, one) for one in arguments)
    if origin is typing.Literal:
        return any(value == one and isinstance(value, type(one)) for one in arguments)
    if annotation is type(None):
        return value is None
    if annotation in (float, int, str, bool):
        return _plain(value, annotation)
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        return isinstance(value, Mapping)
    if origin is Callable or annotation is Callable:
        return callable(value)
    if origin in MANY or annotation in MANY:
        return _many(value, origin, arguments)
    return True


def _plain(value: Any, kind: type) -> bool:
    if kind is str:
        return isinstance(value, str)
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if isinstance(value, str | bool | Mapping | tuple | list | None) or callable(value):
        return False
    if kind is int:
        # An array can't be a size, and a float that happens to be whole is one only where it is written so.
        return isinstance(value, int | np.integer) or not isinstance(value, float | np.floating)
    return True


def _many(value: Any, origin: Any, arguments: tuple) -> bool:
    if isinstance(value, str | bytes | bool | int | float | None) or (
        callable(value) and not hasattr(value, "__iter__")
    ):
        return False
    if not isinstance(value, tuple | list) or not arguments:
        return not isinstance(value, Mapping) or origin in (Iterable, Collection, None)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(fits(one, kind) for one, kind in zip(value, arguments, strict=True))
    return all(fits(one, arguments[0]) for one in value)


def said(annotation: Any) -> str:
    """An annotation in words.

    Example:
      >>> said(float | None), said(tuple[str, ...] | str)
      ('a number or None', 'several of a text or a text')
    """
    origin, arguments = _origin(annotation), typing.get_args(annotation)
    if origin is typing.Union:
        return " or ".join(dict.fromkeys(said(one) for one in arguments))
    if origin is typing.Literal:
        return " or ".join(map(repr, arguments))
    if annotation is type(None):
        return "None"
    if annotation in WORDS:
        return WORDS[annotation]
    if origin in (dict, Mapping) or annotation in (dict, Mapping):
        return "a mapping"
    if origin is Callable or annotation is Callable:
        return "a function"
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return f"({', '.join(said(one) for one in arguments)})"
    if origin in MANY or annotation in MANY:
        return f"several of {said(arguments[0])}" if arguments else "several values"
    return getattr(annotation, "__name__", str(annotation))
