"""The shape of a decoder, of whichever family."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ft_jax.models.networks.parts.configuration import check
from ft_jax.models.networks.parts.rope import RopeScaling
from ft_jax.outside import printable

NORMS = ("rms", "layer")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder; the defaults are Llama's.

    Attributes:
      vocabulary: tokens in the table.
      width: of the residual stream.
      layers: how many.
      heads: query heads.
      key_value_heads: heads of keys and values, dividing `heads`.
      head_width: of one head, even.
      mlp_width: of the MLP's hidden layer, or of one expert's.
      positions: longest sequence, in tokens.
      family: the published architecture it is saved as, such as ``"qwen3"``; None for the first that fits.
      learned_positions: whether a table of positions is added to the embeddings, in place of rotary positions (GPT-2).
      rope_theta: base of the rotary frequencies.
      rope_scaling: their change for long contexts (see `ft_jax.models.networks.parts.rope`), or None.
      rotary_width: how many of a head's numbers are turned, even; None for all (Phi-3 may turn some).
      rotary: which layers turn queries and keys at all, repeated over the layers (SmolLM3 leaves out every fourth).
      window: a token of a windowed layer sees itself and this many less one before it; None for all.
      windowed: which layers are windowed, repeated over the layers (Gemma alternates).
      local_rope_theta: base of the unscaled frequencies of windowed layers (Gemma 3); None for `rope_theta`.
      norm: ``"rms"`` or ``"layer"``.
      epsilon: of the norms.
      query_key_norms: whether each head's queries and keys are normalised (Qwen 3, Gemma 3).
      post_norms: whether what each sublayer gives is normalised too (Gemma 2 and 3).
      biases: whether query, key and value projections have biases (Qwen 2).
      output_bias: whether the attention's output projection has one.
      mlp_biases: whether the MLP's projections have biases.
      gated: whether the MLP is gated.
      activation: of the MLP.
      tied: whether the unembedding is the token table.
      embedding_scale: factor on the embeddings (Gemma), or None.
      attention_scale: factor on the scores; None for ``1 / √head_width``.
      attention_softcap: scores become ``cap · tanh(scores / cap)`` (Gemma 2), or None.
      logit_softcap: the same for the logits.
      experts: how many MLPs a layer has, of which a router picks for each token; None for one without a router.
      experts_per_token: how many it picks.
      normalised_router: whether the weights of those picked are made to sum to one.
      dropout: rate on every sublayer's output, in training.
      embedding_dropout: rate on the embeddings, in training.
      attention_dropout: rate on the attention maps, in training.
      dtype: compute type; parameters keep their own. Norms, softmax, rotary positions, routing and losses are float32.
      remat: ``"none"``, ``"dots"`` or ``"full"``: what each layer recomputes in the backward pass.
      scan: whether the layers run in one `jax.lax.scan`, with parameters stacked under ``layers/stacked``.
      collect: of ``"hidden"``, ``"attention"``, ``"scores"``, ``"projections"`` (query, key, value): what
        `Outputs.states` holds of every layer.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    key_value_heads: int
    head_width: int
    mlp_width: int
    positions: int = 2048
    family: str | None = None
    learned_positions: bool = False
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rotary_width: int | None = None
    rotary: tuple[bool, ...] = (True,)
    window: int | None = None
    windowed: tuple[bool, ...] = (True,)
    local_rope_theta: float | None = None
    norm: str = "rms"
    epsilon: float = 1e-5
    query_key_norms: bool = False
    post_norms: bool = False
    biases: bool = False
    output_bias: bool = False
    mlp_biases: bool = False
    gated: bool = True
    activation: str = "silu"
    tied: bool = True
    embedding_scale: float | None = None
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    experts: int | None = None
    experts_per_token: int = 2
    normalised_router: bool = True
    dropout: float = 0.0
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: str = "float32"
    remat: str = "none"
    scan: bool = False
    collect: tuple[str, ...] = ()

    def __post_init__(self):
        check(self, divides=(("key_value_heads", "heads"),))
        turned = self.rotary_width or self.head_width
        if not self.learned_positions and (turned % 2 or turned > self.head_width):
            name = "rotary_width" if self.rotary_width else "head_width"
            raise ValueError(
                f"DecoderConfig.{name} is {turned}; rotary positions need an even one"
                + (f" of at most head_width, which is {self.head_width}" if self.rotary_width else "")
            )
        if self.norm not in NORMS:
            raise ValueError(f"DecoderConfig.norm is {printable(self.norm)}; it may be {' or '.join(map(repr, NORMS))}")
        if self.window is not None and self.window < 1:
            raise ValueError(f"DecoderConfig.window is {self.window}; a token sees at least itself, so at least 1")
        if not self.rotary or not self.windowed:
            raise ValueError("DecoderConfig.rotary and windowed say which layers; each needs at least one entry")
        if self.experts is not None and not 1 <= self.experts_per_token <= self.experts:
            raise ValueError(
                f"DecoderConfig.experts_per_token is {self.experts_per_token} and there are {self.experts} experts; "
                "it must lie between 1 and them"
            )
        if self.experts is not None and not self.gated:
            raise ValueError("DecoderConfig.gated is False and experts is set; experts are gated MLPs here")

    def kind(self, layer: int) -> tuple[bool, bool]:
        """``(windowed, rotary)`` of a layer."""
        windowed = self.window is not None and self.windowed[layer % len(self.windowed)]
        return windowed, not self.learned_positions and self.rotary[layer % len(self.rotary)]

    @property
    def period(self) -> int:
        """After how many layers their kinds repeat."""
        return len(shortest([self.kind(layer) for layer in range(self.layers)]))


def shortest(pattern: Sequence[Any]) -> tuple:
    """The shortest beginning that, repeated and cut, gives the pattern.

    Example:
      >>> shortest([1, 2, 1, 2, 1])
      (1, 2)
    """
    for length in range(1, len(pattern)):
        if all(value == pattern[i % length] for i, value in enumerate(pattern)):
            return tuple(pattern[:length])
    return tuple(pattern)
