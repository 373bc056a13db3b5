"""Transformers over rows of numbers: a token for each column."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from ft_jax.models.networks.parts.attention import Mask
from ft_jax.models.networks.parts.configuration import check
from ft_jax.models.networks.parts.layers import LayerNorm, dropout, subkey, value
from ft_jax.models.networks.parts.scanned import held, run_layers
from ft_jax.models.networks.vision import PreNormLayer


@dataclasses.dataclass(frozen=True)
class TabularConfig:
    """The shape of a transformer over rows of a table.

    Attributes:
      columns: numbers of a row.
      width: of the residual stream.
      layers: how many.
      heads: attention heads, dividing `width`.
      mlp_width: of the hidden layer of each MLP.
      activation: of the MLP.
      epsilon: of the norms.
      dropout: rate on embeddings and on every sublayer's output, in training.
      attention_dropout: rate on the attention maps, in training.
      dtype: compute type; parameters keep their own.
      remat: what each layer recomputes in the backward pass.
      scan: whether the layers run in one scan.
      collect: of ``"hidden"`` and ``"attention"``, what `Outputs.states` holds of every layer.
    """

    columns: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    mlp_width: int = 128
    activation: str = "gelu"
    epsilon: float = 1e-6
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    scan: bool = False
    collect: tuple[str, ...] = ()

    def __post_init__(self):
        check(self, divides=(("heads", "width"),))


class Tabular(nnx.Module):
    """Gorishniy et al. 2021, "FT-Transformer", arXiv:2106.11959, section 3.3, for columns of numbers."""

    reads = ("numbers",)

    def __init__(self, config: TabularConfig, *, rngs: nnx.Rngs):
        self.config = config
        size = (config.columns, config.width)
        self.scales = nnx.Param(jax.random.normal(rngs.params(), size) * config.width**-0.5)
        self.offsets = nnx.Param(jax.random.normal(rngs.params(), size) * config.width**-0.5)
        self.first = nnx.Param(jax.random.normal(rngs.params(), (config.width,)) * config.width**-0.5)
        make = functools.partial(PreNormLayer, config, rngs)
        self.layers = held([make() for _ in range(config.layers)], scan=config.scan)
        self.norm = LayerNorm(config.width, config.epsilon)

    def __call__(self, batch, key=None):
        """``numbers [batch, columns]``, NaN where a cell is empty, to the row's vector ``[batch, width]``.

        A token of a column is ``x · scale + offset``; empty cells are out of sight. The first token, which is of no
        column, gives the vector.
        """
        config, numbers = self.config, batch["numbers"]
        if numbers.shape[1:] != (config.columns,):
            raise ValueError(
                f"numbers has shape {numbers.shape} and the model takes [batch, {config.columns}]; give it those"
            )
        there = jnp.isfinite(numbers)
        cells = jnp.where(there, numbers, 0.0).astype(config.dtype)[..., None]
        tokens = cells * value(self.scales).astype(config.dtype) + value(self.offsets).astype(config.dtype)
        first = jnp.broadcast_to(value(self.first).astype(config.dtype), (len(numbers), 1, config.width))
        hidden = dropout(jnp.concatenate([first, tokens], axis=1), config.dropout, subkey(key, config.layers))
        seen = jnp.pad(there, ((0, 0), (1, 0)), constant_values=True)
        mask = Mask(seen[:, None, None, :])
        hidden, states = run_layers(self.layers, hidden, config, key, lambda number: {"mask": mask})
        return self.norm(hidden[:, 0]), states
