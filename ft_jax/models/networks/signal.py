"""Transformers over signals and sounds: patches of samples, or of a log-mel spectrum made on the device."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from ft_jax.models.networks.log_mel import HOP, log_mel
from ft_jax.models.networks.parts.attention import Mask
from ft_jax.models.networks.parts.configuration import check
from ft_jax.models.networks.parts.layers import LayerNorm, Projection, dropout, subkey, value
from ft_jax.models.networks.parts.scanned import held, run_layers
from ft_jax.models.networks.vision import PreNormLayer


@dataclasses.dataclass(frozen=True)
class SignalConfig:
    """The shape of a transformer over a signal.

    Attributes:
      samples: of an input.
      patch: samples (or frames of a spectrum) that make a token, dividing their number.
      width: of the residual stream.
      layers: how many.
      heads: attention heads, dividing `width`.
      mlp_width: of the hidden layer of each MLP.
      channels: of a sample.
      mels: bins of the log-mel spectrum of sound at 16 kHz (`ft_jax.models.log_mel`), one frame for 160 samples; None
        for the samples themselves.
      activation: of the MLP.
      epsilon: of the norms.
      dropout: rate on embeddings and on every sublayer's output, in training.
      attention_dropout: rate on the attention maps, in training.
      dtype: compute type; parameters keep their own.
      remat: what each layer recomputes in the backward pass.
      scan: whether the layers run in one scan.
      collect: of ``"hidden"`` and ``"attention"``, what `Outputs.states` holds of every layer.
    """

    samples: int
    patch: int = 4
    width: int = 64
    layers: int = 2
    heads: int = 4
    mlp_width: int = 128
    channels: int = 1
    mels: int | None = None
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
        if self.steps % self.patch:
            raise ValueError(f"SignalConfig.patch is {self.patch} and must divide the {self.steps} steps of an input")

    @property
    def steps(self) -> int:
        """Samples, or frames of the spectrum."""
        return self.samples // HOP if self.mels else self.samples

    @property
    def tokens(self) -> int:
        """How many an input has."""
        return self.steps // self.patch


class Signal(nnx.Module):
    """Gong et al. 2021, "AST: Audio Spectrogram Transformer", arXiv:2104.01778, with patches along time alone."""

    reads = ("signals", "audio")

    def __init__(self, config: SignalConfig, *, rngs: nnx.Rngs):
        self.config = config
        inputs = config.patch * (config.mels or config.channels)
        self.patches = Projection(inputs, config.width, bias=True, rngs=rngs)
        self.positions = nnx.Param(jax.random.normal(rngs.params(), (config.tokens, config.width)) * 0.02)
        make = functools.partial(PreNormLayer, config, rngs)
        self.layers = held([make() for _ in range(config.layers)], scan=config.scan)
        self.norm = LayerNorm(config.width, config.epsilon)

    def __call__(self, batch, key=None):
        """``signals [batch, samples(, channels)]`` or ``audio [batch, samples]`` to ``[batch, tokens, width]``."""
        config = self.config
        x = batch["audio"] if "audio" in batch else batch["signals"]
        x = x[..., None] if x.ndim == 2 else x
        expected = (config.samples, 1 if config.mels else config.channels)
        if x.shape[1:] != expected:
            raise ValueError(
                f"a signal has shape {x.shape} and the model takes [batch, {expected[0]}, {expected[1]}]; cut or fill "
                "it, or build the model with samples=..."
            )
        if config.mels:
            x = jnp.swapaxes(log_mel(x[..., 0], config.mels), 1, 2)
        x = x.astype(config.dtype).reshape(x.shape[0], config.tokens, -1)
        hidden = self.patches(x) + value(self.positions).astype(config.dtype)
        hidden = dropout(hidden, config.dropout, subkey(key, config.layers))
        hidden, states = run_layers(self.layers, hidden, config, key, lambda number: {"mask": Mask()})
        return self.norm(hidden), states
