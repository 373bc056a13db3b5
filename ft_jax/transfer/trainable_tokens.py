"""A few rows of the table of tokens."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.adapters import adapt, as_targets, owned, require
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import matches
from ft_jax.core.weights import Weight, materialize, matmul, shape
from ft_jax.core.weights.operator import operator

TABLE = "*embeddings/tokens"


@operator("indices", "axis", "owner")
class Rows(Weight):
    """`base` with other rows at some tokens: a table's rows (axis 0), or an unembedding's columns (axis 1)."""

    base: Any
    rows: Float[Array, "tokens width"]
    indices: tuple[int, ...] = ()
    axis: int = 0
    owner: str = ""

    def matmul(self, x, bias=None):
        if self.axis == 0:
            return x @ self.materialize().astype(x.dtype) + (0 if bias is None else bias.astype(x.dtype))
        y, own = matmul(self.base, x, bias), x @ self.rows.T.astype(x.dtype)
        at = jnp.array(self.indices)
        return y.at[..., at].set(own if bias is None else own + bias[at].astype(x.dtype))

    def materialize(self):
        base = materialize(self.base)
        rows, at = self.rows.astype(base.dtype), jnp.array(self.indices)
        return base.at[at].set(rows) if self.axis == 0 else base.at[:, at].set(rows.T)

    @property
    def shape(self):
        return shape(self.base)


@register(
    "transfer",
    paper="Gal et al. 2022, arXiv:2208.01618, section 4.2, as peft's TrainableTokens",
    example=lambda problem: trainable_tokens((1, 2, 5), also=("*/head/*",)),
    neutral="it replaces what learns by a few rows, so no number of it trains like the step without it",
)
def trainable_tokens(
    indices: Iterable[int] | Mapping[str, Iterable[int]],
    also: tuple[str, ...] = (),
    *,
    name: str = "transfer.trainable_tokens",
) -> Method:
    """Learns the embeddings of a few tokens, such as those just added; every other row stays as it is.

    The table ``e [tokens, width]`` has ``e[indices] = rows``, and ``rows`` start at ``e[indices]``, so training starts
    at the pretrained function. Where the unembedding is tied, it changes at those tokens too. Beside
    `ft_jax.transfer.lora` it is peft's ``trainable_token_indices``.

    Args:
      indices: the tokens; or tokens by pattern over parameter paths, for an unembedding of its own:
        ``{"*embeddings/tokens": (3, 7), "*/head/kernel": (3, 7)}``.
      also: patterns of leaves that learn in full besides.
      name: the method's name.

    Raises:
      ValueError: no token, one twice or below 0; at init, one that the table does not have, or patterns that fit
        nothing.

    Example:
      >>> params = {"model": {"embeddings": {"tokens": jnp.ones((9, 4))}}}
      >>> import jax
      >>> trainable_tokens((3, 7)).surgery(params, jax.random.key(0))["model"]["embeddings"]["tokens"].rows.shape
      (2, 4)
    """
    given = indices if isinstance(indices, Mapping) else {TABLE: indices}
    chosen = {pattern: tuple(own) for pattern, own in given.items()}
    for pattern, own in chosen.items():
        wrong = [one for one in own if isinstance(one, bool) or one != int(one) or one < 0]
        if not own or wrong or len(set(own)) < len(own):
            raise ValueError(
                f"{name} has the tokens {list(own)} of {pattern}; give at least one, each once, as numbers from 0"
            )
    targets, also = as_targets(tuple(chosen)), (also,) if isinstance(also, str) else tuple(also)

    def rows(path, table, key):
        own = next(own for pattern, own in chosen.items() if matches(path, (pattern,)))
        axis = int(path.endswith("/kernel"))
        if max(own) >= shape(table)[axis]:
            raise ValueError(
                f"{name} has the token {max(own)}, but {path} has {shape(table)[axis]} tokens; give lower ones, or "
                "resize the vocabulary first (models.resized)"
            )
        dense = materialize(table).astype(jnp.float32)
        return Rows(table, jnp.take(dense, jnp.array(own), axis=axis).reshape(len(own), -1) if axis == 0 else
                    dense[:, jnp.array(own)].T, tuple(map(int, own)), axis, name)  # fmt: skip

    def surgery(params, key):
        require(params, also, name)
        return adapt(params, targets, rows, key, name)

    return Method(name=name, surgery=surgery, trainable=owned(name, ("rows",), also))
