"""Typed overrides of any field of an experiment, and the list of the fields there are."""

import ast
import contextlib
import dataclasses
import enum
import functools
import inspect
import io
import operator
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from ft_jax.core.catalogue import catalogue
from ft_jax.core.params import nearest
from ft_jax.outside import printable, trouble_with
from ft_jax.training.written_methods import methods_of

METHODS = "method"
"""The field whose value is written as calls, see `ft_jax.training.written_methods`."""

EITHER = (("budget.steps", "budget.epochs"), ("budget.epochs", "budget.steps"))
"""Fields of which the second is None once the first is given."""

GIVEN_BY_THE_RUN = ("apply", "params", "example")
"""Options of a method that the run fills in, see `ft_jax.training.composition.Use`."""

REQUIRED = "(required)"
PLAIN = (int, float, str, bool, Path, type(None))


@dataclasses.dataclass(frozen=True)
class Field:
    """A place in an experiment that can be overridden.

    Attributes:
      path: as it is written, ``"method.transfer.lora.rank"``.
      annotation: the type its value is parsed by.
      value: what it is now.
      help: one line from the documentation.
      place: the steps to it: field names, tuple indices, mapping keys.
    """

    path: str
    annotation: Any
    value: Any
    help: str
    place: tuple[str | int, ...]

    @property
    def kind(self) -> str:
        """The type as people write it."""
        return _type_name(self.annotation)

    @property
    def shown(self) -> str:
        """The value in at most 60 characters."""
        text = getattr(self.value, "__name__", None) or repr(self.value)
        return text if len(text) <= 60 else text[:57] + "..."

    @property
    def settable(self) -> bool:
        """Whether a command line can hold its value: functions and specs are changed in the file."""
        return _in_words(self.annotation) is not None


def fields(experiment: Any) -> list[Field]:
    """Every field of an experiment's dataclass tree, the options of its methods and the numbers in `hyper`."""
    return list(_fields_of(experiment, "", ()))


def parse(tokens: Sequence[str]) -> dict[str, list[str]]:
    """``--path value …`` and ``--path=value`` as a dict of values by path.

    Raises:
      ValueError: a word that belongs to no field, or a field named twice.

    Example:
      >>> parse(["--seed", "3", "--data.domains", "movie", "tweets", "--budget.steps=9"])
      {'seed': ['3'], 'data.domains': ['movie', 'tweets'], 'budget.steps': ['9']}
    """
    found: dict[str, list[str]] = {}
    values: list[str] | None = None
    for token in tokens:
        if token.startswith("--") and len(token) > 2:
            path, equals, value = token[2:].partition("=")
            wrong = trouble_with(path)
            if wrong:
                raise ValueError(f"the field {printable(path)} {wrong}; write it as ft-jax run NAME --help lists it")
            if path in found:
                raise ValueError(f"--{path} is given twice; give it once")
            values = found.setdefault(path, [value] if equals else [])
        elif values is None:
            raise ValueError(f"{printable(token)} stands before any --field; write ft-jax run NAME --field.path value")
        else:
            values.append(token)
    return found


def override(experiment: Any, tokens: Sequence[str]) -> Any:
    """The experiment with fields changed as a command line says.

    Args:
      experiment: a tree of frozen dataclasses.
      tokens: ``["--budget.steps", "50", "--method.transfer.lora.rank", "4", "--hyper.optimizer.learning_rate",
        "1e-3"]``; ``["--method", "transfer.lora(rank=8)", "distillation.logits(...)"]`` replaces the methods.

    Raises:
      KeyError: a field that isn't there, with the nearest ones.
      ValueError: a value that is not of the field's type.
    """
    given = parse(tokens)
    if METHODS in given and hasattr(experiment, METHODS):
        # First, so that options of the methods named here can be given as well.
        methods = methods_of(given.pop(METHODS), experiment.method)
        experiment = dataclasses.replace(experiment, method=methods)
    for one, other in EITHER:
        if one in given and other not in given and other in {field.path for field in fields(experiment)}:
            experiment = _set(experiment, other, ["None"])
    for path, texts in given.items():
        experiment = _set(experiment, path, texts)
    return experiment


def _set(experiment: Any, path: str, texts: list[str]) -> Any:
    known = {field.path: field for field in fields(experiment)}
    if path.replace("-", "_") in known:
        path = path.replace("-", "_")
    field = known.get(path) or _new_key(known, path)
    if field is None:
        settable = [name for name, one in known.items() if one.settable]
        inner = [f"--{name}" for name in settable if name.startswith(f"{path}.")]
        if inner:
            raise KeyError(f"--{path} is made of fields; set one of {', '.join(inner[:4])}")
        raise KeyError(f"the experiment has no field {printable(path)}; the nearest are {nearest(path, settable)}")
    return _replaced(experiment, field.place, _value(field, texts))


def _fields_of(value: Any, prefix: str, place: tuple):
    """The fields below `value`, a dataclass."""
    hints, documentation = _hints(type(value)), _argument_help(type(value))
    for field in dataclasses.fields(value):
        inner, path, steps = getattr(value, field.name), f"{prefix}{field.name}", (*place, field.name)
        if isinstance(inner, tuple) and any(hasattr(one, "signature") for one in inner):
            for index, use in enumerate(inner):
                if hasattr(use, "signature"):
                    yield from _options_of(use, path, (*steps, index))
        else:
            yield from _expanded(
                Field(path, hints.get(field.name, Any), inner, documentation.get(field.name, ""), steps)
            )


def _options_of(use: Any, prefix: str, place: tuple):
    """A method's options, whether the experiment sets them or the constructor's default stands."""
    signature = use.signature()  # loads the method's family
    build = catalogue[use.name].build
    hints, documentation = _hints(build), _argument_help(build)
    # A method used twice has a name of its own, by which its options are told apart.
    name = use.options.get("name", use.name)
    for option, parameter in signature.parameters.items():
        filled = option in GIVEN_BY_THE_RUN and option not in use.options
        if filled or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        value = use.options.get(option, parameter.default)
        value = REQUIRED if value is inspect.Parameter.empty else value
        path = f"{prefix}.{name}.{option}"
        yield from _expanded(
            Field(path, hints.get(option, Any), value, documentation.get(option, ""), (*place, option))
        )


def _expanded(field: Field):
    """A field, or those it is made of; a mapping is both."""
    if dataclasses.is_dataclass(field.value) and not isinstance(field.value, type):
        yield from _fields_of(field.value, f"{field.path}.", field.place)
        return
    yield field
    inner = _values_of_mapping(field.annotation)
    if inner is not None and isinstance(field.value, Mapping):
        for key, value in field.value.items():
            yield from _expanded(Field(f"{field.path}.{key}", inner, value, "", (*field.place, key)))


def _new_key(known: Mapping[str, Field], path: str) -> Field | None:
    """A key that a mapping does not have yet, such as a number of `hyper`."""
    for name, field in known.items():
        inner = _values_of_mapping(field.annotation)
        if inner is not None and path.startswith(f"{name}."):
            key, deeper = path.removeprefix(f"{name}."), _values_of_mapping(inner)
            if deeper is None:
                return Field(path, inner, None, "", (*field.place, key))
            # Numbers by step: the step, then the number's own name.
            step, _, number = key.partition(".")
            if not step.isdecimal() or not number:
                raise ValueError(f"--{path} names no number at a step; write --{name}.STEP.method.number VALUE")
            return Field(path, deeper, None, "", (*field.place, int(step), number))
    return None


def _replaced(root: Any, place: tuple, value: Any) -> Any:
    """`root` with `value` at `place`; nothing is changed in it."""
    if not place:
        return value
    first, rest = place[0], place[1:]
    if isinstance(root, tuple):
        return tuple(_replaced(one, rest, value) if index == first else one for index, one in enumerate(root))
    if hasattr(root, "changed"):
        return root.changed(**{first: _replaced(root.options.get(first), rest, value)})
    if dataclasses.is_dataclass(root):
        return dataclasses.replace(root, **{first: _replaced(getattr(root, first), rest, value)})
    return {**(root or {}), first: _replaced((root or {}).get(first), rest, value)}


TEXTS = (str, str | None)
"""What a text with brackets is taken as it is for."""


def _value(field: Field, texts: list[str]) -> Any:
    """The texts as a value of the field's type."""
    annotation, told = _in_words(field.annotation), " ".join(texts)
    wrong = f"--{field.path} takes {field.kind}, got {printable(told)}; it is {field.shown} now"
    if annotation is None:
        raise ValueError(f"--{field.path} is a {field.kind}, which a command line can't hold; set it in the file")
    if annotation is bool:
        texts = [{"true": "True", "false": "False"}.get(text.lower(), text) for text in texts or ["True"]]
    if not texts:
        raise ValueError(f"--{field.path} needs a value: {field.kind}; it is {field.shown} now")
    if annotation is Any:
        values = tuple(_literal(text) for text in texts)
        return values[0] if len(values) == 1 else values
    if len(texts) == 1 and texts[0][:1] in ("(", "[", "{") and annotation not in TEXTS:
        written = _literal(texts[0])
        inner = _values_of_mapping(field.annotation)
        if isinstance(written, Mapping) and inner is not None:
            return {key: _value(Field(field.path, inner, None, "", ()), _words(one)) for key, one in written.items()}
        if not isinstance(written, list | tuple):
            raise ValueError(wrong)
        texts = _words(written)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(annotation, args=texts, add_help=False)
    except (SystemExit, tyro.UnsupportedTypeAnnotationError):
        raise ValueError(wrong) from None


def _literal(text: str) -> Any:
    """A Python literal, or the text itself where it is none."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _words(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


def _hints(owner: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(owner)
    except (NameError, TypeError):
        return {}


def _argument_help(owner: Any) -> dict[str, str]:
    """One line on each argument, from a docstring's ``Args:`` or ``Attributes:``."""
    found, inside = {}, False
    for line in (inspect.getdoc(owner) or "").splitlines():
        if re.fullmatch(r"(Args|Attributes):", line):
            inside = True
        elif line and not line.startswith(" "):
            inside = False
        elif inside and (match := re.match(r" {2}([\w, ]+): (.*)", line)):
            last = match[2]
            for name in match[1].split(", "):
                found[name] = last
        elif inside and found and line.startswith("    "):
            name = next(reversed(found))
            found[name] += " " + line.strip()
    return found


def _origin(annotation: Any) -> Any:
    origin = typing.get_origin(annotation)
    return typing.Union if origin is types.UnionType else origin


def _values_of_mapping(annotation: Any) -> Any | None:
    """The type of a mapping's values, or None where `annotation` is no mapping from names."""
    for one in typing.get_args(annotation) if _origin(annotation) is typing.Union else (annotation,):
        if _origin(one) in (dict, Mapping):
            return typing.get_args(one)[1]
    return None


def _in_words(annotation: Any) -> Any | None:
    """The part of a type that words of a command line can stand for, or None: no functions, specs, arrays."""
    origin, arguments = _origin(annotation), typing.get_args(annotation)
    if annotation in (Any, inspect.Parameter.empty):
        return Any
    if origin is typing.Union:
        kept = tuple(one for one in map(_in_words, arguments) if one not in (None, type(None)))
        if not kept or Any in kept:
            return Any if kept else None
        return functools.reduce(operator.or_, (*kept, type(None)) if type(None) in arguments else kept)
    if origin is typing.Literal or annotation in PLAIN:
        return annotation
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return annotation
    if origin in (tuple, list, Iterable, Sequence, Collection, dict, Mapping):
        inner = [one if one is Ellipsis else _in_words(one) for one in arguments]
        if None in inner:
            return None
        if origin in (dict, Mapping):
            return dict[tuple(inner)]
        return list[inner[0]] if origin is list else tuple[tuple(inner) if origin is tuple else (inner[0], ...)]
    return None


def _type_name(annotation: Any) -> str:
    if annotation in (Any, inspect.Parameter.empty):
        return "any"
    origin, arguments = _origin(annotation), typing.get_args(annotation)
    if origin is Callable:
        return "function"
    if origin is typing.Literal:
        return " | ".join(map(repr, arguments))
    if origin is typing.Union:
        return " | ".join(_type_name(one) for one in arguments)
    if origin is not None:
        inner = ", ".join("..." if one is Ellipsis else _type_name(one) for one in arguments)
        return f"{origin.__name__}[{inner}]"
    return "None" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))
