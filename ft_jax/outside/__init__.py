"""What comes from outside is checked where it is read: names, JSON, and the types and ranges of fields."""

from ft_jax.outside.damage import Refused, one_line, refusing
from ft_jax.outside.names import check_name, cut, escaped, listed, printable, trouble_with
from ft_jax.outside.schema import checked, fields
from ft_jax.outside.strict_json import once, parse_json, read_json

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
