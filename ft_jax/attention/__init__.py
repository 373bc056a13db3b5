"""Attention mechanisms: learned weights on what a model attends to.

- `ia3`: elementwise rescaling of keys, values and inner activations.
"""

from ft_jax.attention.ia3 import ia3

__all__ = ["ia3"]
