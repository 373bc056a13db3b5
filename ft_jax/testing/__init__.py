"""The laws of composition, for any method: `check_laws`."""

from ft_jax.testing.check import LawBroken, check_laws
from ft_jax.testing.quick import compile_quickly

__all__ = ["LawBroken", "check_laws", "compile_quickly"]
