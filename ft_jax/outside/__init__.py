"""What comes from outside is checked where it is read: names, JSON, and the types and ranges of fields.

Fields are pydantic's, which is imported when they are first used: ``ft-jax --help`` names things and reads none.
"""

from typing import TYPE_CHECKING, Any

from ft_jax.outside.damage import Refused, one_line, refusing
from ft_jax.outside.names import check_name, cut, escaped, listed, printable, trouble_with
from ft_jax.outside.strict_json import once, parse_json, read_json

if TYPE_CHECKING:
    from ft_jax.outside.schema import checked, fields

__all__ = [
    "Refused",
    "check_name",
    "checked",
    "cut",
    "escaped",
    "fields",
    "listed",
    "once",
    "one_line",
    "parse_json",
    "printable",
    "read_json",
    "refusing",
    "trouble_with",
]


def __getattr__(name: str) -> Any:
    if name not in ("checked", "fields"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ft_jax.outside import schema

    return getattr(schema, name)
