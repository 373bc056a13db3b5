"""Types and ranges of the fields of others' files, said once for each and checked where the file is read.

The mechanism is pydantic's, strict: ``true`` is no number, ``"8"`` is none either, NaN and Infinity are refused.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import Field

from ft_jax.outside.damage import Refused
from ft_jax.outside.names import printable

Size = Annotated[int, Field(ge=1, lt=2**31)]
"""Of an axis."""

Count = Annotated[int, Field(ge=0, lt=2**31)]

Layers = Annotated[int, Field(ge=1, le=10_000)]
"""Things that are gone through one by one."""

Number = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]

Positive = Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False)]

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

Word = Annotated[str, Field(max_length=1000)]

Text = Annotated[str, Field(max_length=10_000_000)]

T = TypeVar("T")
Some = Annotated[list[T], Field(max_length=100_000)]
"""A list that is not endless."""


class Fields(pydantic.BaseModel):
    """Fields by name; each may be missing or null, and others may stand beside them."""

    model_config = pydantic.ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


def fields(title: str, kinds: Mapping[Any, str], **single: Any) -> type[Fields]:
    """A schema out of types and the names that have them.

    Example:
      >>> checked(fields("Example", {Size: "width layers", bool: "tied"}), {"width": 4, "other": 1}, "a.json")
      {'width': 4}
      >>> checked(fields("Example", {Size: "width layers"}), {"width": True}, "a.json")
      Traceback (most recent call last):
      ft_jax.outside.damage.Refused: a.json has width True, which should be a valid integer; correct it or get it again
    """
    kinds = {name: kind for kind, names in kinds.items() for name in names.split()} | single
    made = {name: (kind | None, None) for name, kind in kinds.items()}
    return pydantic.create_model(title, __base__=Fields, **made)


def checked(schema: type[Fields], content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields that a schema has, as they were written; so what it lacks is never used by accident.

    Raises:
      Refused: one is of another type or out of its range; named with its value.
    """
    try:
        schema.model_validate(dict(content))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name, value = _place(content, first["loc"])
        said = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
        raise Refused(f"{where} has {name} {printable(value, 60)}, which {said}; correct it or get it again") from None
    except RecursionError:
        raise Refused(f"{where} is nested too deeply; get it again") from None
    return _known(schema, content)


def _place(content, location):
    """The name and value that an error is about; pydantic's location ends in names of types."""
    name = ""
    for part in location:
        if isinstance(content, Mapping) and part in content:
            name, content = f"{name}.{part}" if name else str(part), content[part]
        elif isinstance(content, list) and isinstance(part, int) and part < len(content):
            name, content = f"{name}[{part}]", content[part]
        else:
            break
    return name, content


def _known(schema, content):
    made = {}
    for name, value in content.items():
        if name not in schema.model_fields:
            continue
        inner = [kind for kind in _parts(schema.model_fields[name].annotation) if _is_schema(kind)]
        made[name] = _known(inner[0], value) if inner and isinstance(value, Mapping) else value
    return made


def _parts(annotation):
    return getattr(annotation, "__args__", (annotation,))


def _is_schema(kind):
    return isinstance(kind, type) and issubclass(kind, Fields)
