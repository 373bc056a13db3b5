"""Which parameters weight decay pulls to zero: matrices of products, and neither tables nor what shifts or scales."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from ft_jax.core.params import matches, path_of

STACKED = "/stacked/"
"""In the path of layers that run in one scan, whose parameters have one axis more."""

TABLES = ("*/embeddings/tokens", "*/embeddings/positions", "*/embeddings/types", "*/positions", "*/distances")
"""Tables that are looked into; they meet no input, so that decay would shrink the rows that a batch doesn't use."""

SHIFTS = ("*/bias", "*norm/scale", "*_bias", "*_scale")
"""What shifts and scales, whatever its shape."""


def decays(path: str, shape: Sequence[int], undecayed: Sequence[str] | None = None) -> bool:
    """Whether weight decay acts on a parameter.

    Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", arXiv:1711.05101, decay every parameter; the
    practice since BERT (Devlin et al. 2019, arXiv:1810.04805) leaves out what is no matrix of a product.

    Args:
      path: of the parameter, such as ``"model/head/kernel"``.
      shape: its shape.
      undecayed: shell patterns of paths that don't decay; by default vectors and numbers, `SHIFTS` and `TABLES`.

    Example:
      >>> decays("model/head/kernel", (16, 2)), decays("model/embeddings/tokens", (9, 4))
      (True, False)
      >>> decays("model/layers/stacked/mlp_norm/scale", (6, 16)), decays("model/head/bias", (2,), undecayed=())
      (False, True)
    """
    if undecayed is not None:
        return not matches(path, undecayed)
    return len(shape) - (STACKED in path) >= 2 and not matches(path, (*SHIFTS, *TABLES))


def decay_mask(undecayed: Sequence[str] | None = None) -> Callable[[Any], Any]:
    """The ``mask`` that optax's optimizers take: a tree of parameters to a tree of truth values, see `decays`."""

    def mask(params):
        return jax.tree_util.tree_map_with_path(lambda path, leaf: decays(path_of(path), leaf.shape, undecayed), params)

    return mask
