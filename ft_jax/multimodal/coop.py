"""Words of a prompt that are learned."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.adapters import owned
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import nearest, paths
from ft_jax.core.weights import Weight, is_weight, materialize, shape
from ft_jax.core.weights.operator import operator

TABLE = "embeddings/tokens"
"""How the path of a token table ends."""


@operator("ids", "owner")
class LearnedRows(Weight):
    """A token table of which the rows `ids` are learned ones."""

    base: Any
    rows: Float[Array, "count width"]
    ids: tuple[int, ...] = ()
    owner: str = ""

    def matmul(self, x, bias=None):
        y = x @ self.materialize().astype(x.dtype)
        return y if bias is None else y + bias

    def materialize(self):
        base = materialize(self.base)
        return base.at[jnp.array(self.ids)].set(self.rows.astype(base.dtype))

    @property
    def shape(self):
        return shape(self.base)


@register(
    "multimodal",
    paper="Zhou et al. 2021, arXiv:2109.01134, section 3.2",
    example=lambda problem: coop((3, 5), table="model/embeddings/tokens"),
    neutral="it replaces what learns by the words of a prompt",
)
def coop(words: Sequence[int], table: str | None = None, *, name: str = "multimodal.coop") -> Method:
    """Learns the embeddings of a prompt's words, shared by all classes; the model stays frozen.

    Prompts are ``[start, V_1 … V_M, class name, end]`` as in the paper's unified context: write them with tokens that
    stand for the learned ``V_1 … V_M`` and that nothing else uses, and give their ids here. The rows start as the
    words' own, such as those of "a photo of a". Around `zero_shot`, whose prompts go through the text tower in every
    step, it is CoOp.

    Args:
      words: token ids, each once.
      table: the path of the token table; the only one of the model where it is not given.
      name: the method's name.

    Raises:
      ValueError: no word, one named twice or outside the table, or a model without one such table.

    Example:
      >>> coop((320, 1125, 539)).trainable("model/text/embeddings/tokens/multimodal.coop/rows", None)
      True
    """
    words = tuple(int(word) for word in words)
    if not words or len(set(words)) < len(words):
        raise ValueError(f"{name} has words {words}; give at least one token id, each once")

    def surgery(params, key):
        model = {"model": params["model"]}
        known = [path for path in paths(model, is_leaf=is_weight) if path.endswith(TABLE)]
        place = table or (known[0] if len(known) == 1 else None)
        if place not in paths(model, is_leaf=is_weight):
            found = nearest(place or TABLE, paths(model, is_leaf=is_weight))
            raise ValueError(
                f"{name} learns rows of one token table, and the nearest paths are {found}; pass table=..."
            )

        def learned(weight):
            rows = shape(weight)[0]
            if not all(0 <= word < rows for word in words):
                raise ValueError(
                    f"{name} has words {words} and the table {place} has {rows} rows; give ids of its tokens"
                )
            return LearnedRows(weight, materialize(weight)[jnp.array(words)], words, name)

        return {**params, **_replaced(model, place.split("/"), learned)}

    return Method(name=name, surgery=surgery, trainable=owned(name, ("rows",)))


def _replaced(tree, parts, change):
    first, *rest = parts
    return {**tree, first: _replaced(tree[first], rest, change) if rest else change(tree[first])}
