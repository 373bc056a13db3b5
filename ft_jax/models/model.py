"""A model as a value: configuration, parameters, a pure forward function, a tokenizer."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ft_jax.core.grafts import ungrafted
from ft_jax.core.outputs import Outputs
from ft_jax.core.params import paths
from ft_jax.core.weights import Transposed, is_weight
from ft_jax.models.decoder import Decoder, DecoderConfig
from ft_jax.models.encoder import Encoder, EncoderConfig
from ft_jax.models.layers import graft_onto
from ft_jax.models.vision import MLPConfig, Perceptron, VisionTransformer, ViTConfig

MODULES = {EncoderConfig: Encoder, DecoderConfig: Decoder, MLPConfig: Perceptron, ViTConfig: VisionTransformer}

POOLINGS = ("mean", "cls", "last", "pooler")


@functools.lru_cache(maxsize=64)
def _skeleton(config):
    module = nnx.eval_shape(lambda: MODULES[type(config)](config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(module)
    return graph, nnx.to_pure_dict(state)


def shapes(config) -> dict:
    """The parameters a configuration has, as a nested dict of `jax.ShapeDtypeStruct`; nothing is allocated."""
    return jax.tree.map(lambda leaf: leaf, _skeleton(config)[1])


def initial_parameters(config, key: jax.Array | None) -> dict:
    """Random parameters drawn with `key`; without one, their shapes alone (for counting)."""
    if key is None:
        return shapes(config)
    _, state = nnx.split(MODULES[type(config)](config, rngs=nnx.Rngs(key)))
    return nnx.to_pure_dict(state)


@dataclasses.dataclass(frozen=True)
class Forward:
    """The pure function ``(params, batch, key) -> Outputs`` of a configuration.

    It holds no arrays and equals every other of the same configuration, so jit compiles it once.

    Attributes:
      config: of the network.
      pooling: None for a vector per token; ``"mean"``, ``"cls"``, ``"last"`` or ``"pooler"`` for one per example.
    """

    config: Any
    pooling: str | None = None

    def module(self, params):
        """The flax NNX module of `params`, without a head.

        Raises:
          ValueError: where parameters are missing or the network doesn't know them.
        """
        graph, expected = _skeleton(self.config)
        params, grafts = ungrafted(params)
        params = {name: child for name, child in params.items() if name != "head" or "head" in expected}
        if "head" in expected:
            params = {**params, "head": expected["head"]}
        have, want = set(paths(params, is_leaf=is_weight)), set(paths(expected))
        if have != want:
            raise ValueError(
                f"parameters don't fit {type(self.config).__name__}: missing {sorted(want - have)[:4]}, "
                f"unknown {sorted(have - want)[:4]}; pass the parameters of a model with this configuration"
            )
        module = nnx.merge(graph, params)
        for path, several in grafts.items():
            graft_onto(module, path, several)
        return module

    def __call__(self, params, batch, key=None) -> Outputs:
        """Runs the model.

        Args:
          params: nested dict of arrays and weight operators.
          batch: ``input_ids`` (with masks, segments, positions) or ``images``.
          key: for dropout in training; None for evaluation.
        """
        self._check(batch)
        module = self.module(params)
        hidden, states = module(batch, key)
        if self.pooling is not None:
            hidden = pool(hidden, batch, self.pooling, module)
        unembedding, bias = self.head(params)
        return Outputs(hidden=hidden, unembedding=unembedding, bias=bias, states=states)

    def head(self, params):
        """``(unembedding, bias)``: over tokens the network's own, or the transposed token table; else the classifier's.

        So a classifier's parameters under a forward function without pooling still give token logits, which a
        masked-language loss beside the classifier's needs.
        """
        own = getattr(self.config, "tied", None) is False
        if self.pooling is None and isinstance(self.config, EncoderConfig | DecoderConfig) and not own:
            return Transposed(params["embeddings"]["tokens"]), None
        head = params.get("head")
        return (None, None) if head is None else (head["kernel"], head.get("bias"))

    def _check(self, batch):
        field = "images" if isinstance(self.config, MLPConfig | ViTConfig) else "input_ids"
        if field not in batch:
            raise KeyError(
                f"batch has no {field!r} (it has {', '.join(sorted(batch))}); {field} is what the model reads"
            )


def pool(hidden: Float[Array, "batch time width"], batch, pooling: str, module=None) -> Float[Array, "batch width"]:
    """One vector an example out of one a token.

    ``"mean"`` over the real tokens, ``"cls"`` the first, ``"last"`` the last real one, ``"pooler"`` BERT's dense
    tanh layer over the first.
    """
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "pooler":
        return module.pool(hidden[:, 0])
    real = batch.get("attention_mask")
    real = jnp.ones(hidden.shape[:2], jnp.int32) if real is None else real
    if pooling == "mean":
        return masked_mean(hidden, real)
    last = hidden.shape[1] - 1 - jnp.argmax(real[:, ::-1] > 0, axis=1)
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]


def masked_mean(hidden, real):
    """Mean over the positions where `real` is 1, in float32, then in the type of `hidden`."""
    weights = real.astype(jnp.float32)[..., None]
    total = (hidden.astype(jnp.float32) * weights).sum(axis=1)
    return (total / jnp.maximum(weights.sum(axis=1), 1.0)).astype(hidden.dtype)


def sentence_embedding(outputs: Outputs, attention_mask) -> Float[Array, "batch width"]:
    """Mean of the real tokens' hidden states, scaled to length 1.

    Reimers and Gurevych 2019, "Sentence-BERT", arXiv:1908.10084, section 3.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ft_jax import models
      >>> model = models.tiny_encoder(jax.random.key(0))
      >>> batch = {"input_ids": jnp.ones((2, 4), jnp.int32), "attention_mask": jnp.ones((2, 4), jnp.int32)}
      >>> sentence_embedding(model.apply(model.params, batch), batch["attention_mask"]).shape
      (2, 16)
    """
    mean = outputs.hidden if outputs.hidden.ndim == 2 else masked_mean(outputs.hidden, attention_mask)
    mean = mean.astype(jnp.float32)
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network with its parameters.

    Attributes:
      config: the network's shape.
      params: nested dict of arrays (or of `jax.ShapeDtypeStruct` where it was built without a key).
      apply: ``(params, batch, key=None) -> Outputs``, pure.
      tokenizer: of transformers, or None.
      stop_tokens: ids that end a generated sequence.
      pad_token: id that fills up.
    """

    config: Any
    params: dict
    apply: Forward
    tokenizer: Any = None
    stop_tokens: tuple[int, ...] = ()
    pad_token: int = 0

    @property
    def parameters(self) -> int:
        """How many numbers the parameters hold."""
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(self.params))

    def configure(self, **changes) -> "Model":
        """The same parameters under a changed configuration: ``dtype``, ``remat``, ``collect``, ``dropout`` ...

        Raises:
          ValueError: where the change would alter the shape of a parameter.

        Example:
          >>> import jax
          >>> from ft_jax import models
          >>> models.tiny_decoder(jax.random.key(0)).configure(dtype="bfloat16").config.dtype
          'bfloat16'
        """
        known = [field.name for field in dataclasses.fields(self.config)]
        for name in changes:
            if name not in known:
                raise ValueError(f"{type(self.config).__name__} has no {name!r}; it has {', '.join(known)}")
        config = dataclasses.replace(self.config, **changes)
        if shapes(config) != shapes(self.config):
            raise ValueError(f"changing {', '.join(changes)} changes the parameters' shapes; build a new model instead")
        return dataclasses.replace(self, config=config, apply=dataclasses.replace(self.apply, config=config))


def with_classifier(model: Model, classes: int, key: jax.Array | None, pooling: str = "mean") -> Model:
    """`model` with a new head over one vector an example.

    Args:
      model: an encoder or decoder, or a vision model (which pools by itself).
      classes: outputs of the head; 1 for a regression or a reward.
      key: draws the head's kernel from N(0, 0.02²), the bias is zero; None for shapes alone.
      pooling: ``"mean"``, ``"cls"``, ``"last"`` or ``"pooler"`` (see `pool`).

    Raises:
      ValueError: on an unknown pooling, fewer than one class, or ``"pooler"`` where there is none.

    Example:
      >>> import jax
      >>> from ft_jax import models
      >>> model = with_classifier(models.tiny_encoder(jax.random.key(0)), 3, jax.random.key(1))
      >>> model.params["head"]["kernel"].shape
      (16, 3)
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}; a head needs at least 1 output")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r} is unknown; use {', '.join(map(repr, POOLINGS))}")
    if pooling == "pooler" and not getattr(model.config, "pooler", False):
        raise ValueError("pooling 'pooler' needs a model with BERT's pooler; this one has none, use 'mean' or 'cls'")
    if isinstance(model.config, MLPConfig | ViTConfig):
        config, pooling = dataclasses.replace(model.config, classes=classes), None
    else:
        config = dataclasses.replace(model.config, tied=True) if hasattr(model.config, "tied") else model.config
    width = config.width
    if key is None:
        head = {"kernel": jax.ShapeDtypeStruct((width, classes), jnp.float32)}
        head["bias"] = jax.ShapeDtypeStruct((classes,), jnp.float32)
    else:
        head = {"kernel": 0.02 * jax.random.normal(key, (width, classes)), "bias": jnp.zeros((classes,))}
    apply = Forward(config, pooling)
    return dataclasses.replace(model, config=config, params={**model.params, "head": head}, apply=apply)


def encoder(config: EncoderConfig, key: jax.Array | None) -> Model:
    """A random encoder; without a key, its shapes alone."""
    return Model(config, initial_parameters(config, key), Forward(config))


def decoder(config: DecoderConfig, key: jax.Array | None) -> Model:
    """A random decoder; without a key, its shapes alone.

    Example:
      >>> config = DecoderConfig(
      ...     vocabulary=1000, width=64, layers=2, heads=4, key_value_heads=2, head_width=16, mlp_width=128
      ... )
      >>> decoder(config, None).parameters
      138048
    """
    return Model(config, initial_parameters(config, key), Forward(config))


def mlp(config: MLPConfig, key: jax.Array | None) -> Model:
    """A random multilayer perceptron on images; without a key, its shapes alone."""
    return Model(config, initial_parameters(config, key), Forward(config))


def vit(config: ViTConfig, key: jax.Array | None) -> Model:
    """A random vision transformer; without a key, its shapes alone."""
    return Model(config, initial_parameters(config, key), Forward(config))


def tiny_encoder(key: jax.Array | None, vocabulary: int = 32, width: int = 16, layers: int = 2) -> Model:
    """An encoder for tests: two heads, no dropout, 32 positions."""
    config = EncoderConfig(
        vocabulary=vocabulary, width=width, layers=layers, heads=2, mlp_width=2 * width, positions=32,
        dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    return encoder(config, key)


def tiny_decoder(key: jax.Array | None, vocabulary: int = 32, width: int = 16, layers: int = 2) -> Model:
    """A decoder for tests: two query heads over one key head, untied head, 64 positions."""
    config = DecoderConfig(
        vocabulary=vocabulary, width=width, layers=layers, heads=2, key_value_heads=1, head_width=width // 2,
        mlp_width=2 * width, positions=64, tied=False,
    )  # fmt: skip
    return decoder(config, key)
