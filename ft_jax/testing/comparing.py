"""Trees of arrays compared on the host."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def host(tree: Any) -> Any:
    """`tree` with numpy arrays as leaves, random keys as their bits.

    Example:
      >>> host({"key": jax.random.key(3)})
      {'key': array([0, 3], dtype=uint32)}
    """
    typed = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda leaf: np.asarray(jax.random.key_data(leaf) if typed(leaf) else leaf), tree)


def same_bits(one: Any, other: Any) -> None:
    """Raises an AssertionError unless two trees are equal to the last bit."""
    _each(one, other, np.testing.assert_array_equal)


_ROUNDING = contextvars.ContextVar("rounding", default=1.0)


@contextlib.contextmanager
def rounding(factor: float) -> Iterator[None]:
    """Inside, trees may be off by `factor` times as much: networks of more layers round more.

    Example:
      >>> with rounding(10.0):
      ...     close(np.float32(1.00005), np.float32(1.0))
    """
    before = _ROUNDING.set(factor)
    try:
        yield
    finally:
        _ROUNDING.reset(before)


def close(one: Any, other: Any, tolerance: float = 1e-5) -> None:
    """Raises an AssertionError unless two trees are equal to float tolerance.

    Sums are rounded by the size of what they add up, so an entry may be off by `tolerance` times its own size and the
    largest of its leaf, or 1 where that is smaller.
    """

    tolerance *= _ROUNDING.get()

    def check(a, b, where):
        largest = max(1.0, float(np.nanmax(np.abs(b), initial=0.0))) if np.issubdtype(b.dtype, np.floating) else 1.0
        np.testing.assert_allclose(a, b, tolerance, tolerance * largest, err_msg=where)

    _each(one, other, check)


def _each(one, other, check):
    pairs = zip(jax.tree.leaves_with_path(host(one)), jax.tree.leaves(host(other)), strict=True)
    for (path, a), b in pairs:
        check(a, b, jax.tree_util.keystr(path))


def finite(tree: Any) -> bool:
    """Whether every number in `tree` is finite."""
    return all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(host(tree)))
