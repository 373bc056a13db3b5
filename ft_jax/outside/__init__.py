"""What comes from outside is checked where it is read: names, JSON, and the types and ranges of fields."""

from ft_jax.outside.names import printable, trouble_with
from ft_jax.outside.strict_json import parse_json, read_json

__all__ = ["parse_json", "printable", "read_json", "trouble_with"]
