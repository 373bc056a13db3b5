"""A model as a value: configuration, parameters, a pure forward function, a tokenizer."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from flax import nnx

from ft_jax.core.batches import named
from ft_jax.core.grafts import ungrafted
from ft_jax.core.outputs import Outputs
from ft_jax.core.params import paths
from ft_jax.core.weights import Transposed, is_weight
from ft_jax.models.architectures.naming import Between
from ft_jax.models.heads import HEADS, pool, through
from ft_jax.models.networks.audio import Whisper, WhisperConfig
from ft_jax.models.networks.captioner import Captioner, CaptionerConfig
from ft_jax.models.networks.decoder import Decoder, DecoderConfig
from ft_jax.models.networks.dual import Dual, DualConfig
from ft_jax.models.networks.encoder import Encoder, EncoderConfig
from ft_jax.models.networks.modern_encoder import ModernEncoder, ModernEncoderConfig
from ft_jax.models.networks.parts.layers import graft_onto, unit
from ft_jax.models.networks.parts.stacking import stack_layers, unstack_layers
from ft_jax.models.networks.signal import Signal, SignalConfig
from ft_jax.models.networks.t5 import T5, T5Config
from ft_jax.models.networks.tabular import Tabular, TabularConfig
from ft_jax.models.networks.vision import MLPConfig, Perceptron, VisionTransformer, ViTConfig
from ft_jax.models.networks.vlm import VisionLanguage, VisionLanguageConfig
from ft_jax.outside import printable

MODULES = {
    EncoderConfig: Encoder,
    ModernEncoderConfig: ModernEncoder,
    DecoderConfig: Decoder,
    MLPConfig: Perceptron,
    ViTConfig: VisionTransformer,
    DualConfig: Dual,
    T5Config: T5,
    WhisperConfig: Whisper,
    VisionLanguageConfig: VisionLanguage,
    CaptionerConfig: Captioner,
    SignalConfig: Signal,
    TabularConfig: Tabular,
}
"""The network of each kind of configuration."""


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
      kind: of the head, see `ft_jax.models.heads`; None for the network's own.
      between: the layer of the head before its outputs, if any.
    """

    config: Any
    pooling: str | None = None
    kind: str | None = None
    between: Between | None = None

    def collecting(self, names: tuple[str, ...]) -> "Forward":
        """The same function with the states `names` among its outputs', where the network can collect them."""
        known = getattr(self.config, "collect", None)
        if known is None or set(names) <= set(known):
            return self
        return dataclasses.replace(
            self, config=dataclasses.replace(self.config, collect=(*known, *sorted({*names} - {*known})))
        )

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
        self.check(batch)
        module = self.module(params)
        made = module(batch, key)
        if isinstance(made, Outputs):
            return made
        hidden, states = made
        if self.pooling is not None and hidden.ndim == 3:
            hidden = pool(hidden, batch, self.pooling, module)
        elif self.kind is None and getattr(module, "prediction", None) is not None:
            hidden = module.prediction(hidden)
        if self.kind is not None:
            hidden = through(self.between, params.get("head", {}), hidden)
        if self.kind is not None and HEADS[self.kind].unit:
            hidden = unit(hidden)
        unembedding, bias = self.head(params)
        softcap = getattr(self.config, "logit_softcap", None) if self.kind is None else None
        return Outputs(hidden=hidden, unembedding=unembedding, bias=bias, states=states, softcap=softcap)

    def head(self, params):
        """``(unembedding, bias)``: over tokens the network's own, or the transposed token table; else the head's.

        So a classifier's parameters under a forward function without a head still give token logits, which a
        masked-language loss beside the classifier's needs.
        """
        config = self.config
        if self.kind is None and self.pooling is None:
            config, params = getattr(config, "language", config), params.get("language", params)
            tokens = params.get("embeddings", {}).get("tokens")
            if tokens is not None and getattr(config, "tied", None) is not False:
                return Transposed(tokens), params.get("prediction", {}).get("bias")
        head = params.get("head")
        return (None, None) if head is None else (head["kernel"], head.get("bias"))

    def check(self, batch) -> None:
        """Refuses a batch without what the model reads.

        Raises:
          KeyError: naming the field and what the batch has.
        """
        reads = getattr(MODULES[type(self.config)], "reads", ("input_ids",))
        if not any(field in batch for field in reads):
            raise KeyError(
                f"batch has no {' or '.join(map(repr, reads))} (it has {named(batch)}); "
                f"{' or '.join(reads)} is what the model reads"
            )


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a model was loaded from, and what its files said beside its parameters.

    Attributes:
      address: of its folder or file.
      configuration: of its config.json.
      described: what config.json would have said, had it been written here when the model was read.
      files: further ones as text, by name, such as ``"generation_config.json"``.
    """

    address: str
    configuration: dict[str, Any] = dataclasses.field(default_factory=dict)
    described: dict[str, Any] = dataclasses.field(default_factory=dict)
    files: dict[str, str] = dataclasses.field(default_factory=dict)


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
      classes: names of the head's outputs, as in ``id2label``; empty where they have none.
      problem_type: what its outputs are, as config.json has it: ``"multi_label_classification"`` where an example may
        have several of the classes, ``"regression"`` for numbers; None for one of the classes.
      drawn: patterns over the paths of parameters that were drawn at random, such as a new head's ``"head/*"``.
      origin: of a loaded model, what its files said.
    """

    config: Any
    params: dict
    apply: Forward
    tokenizer: Any = None
    stop_tokens: tuple[int, ...] = ()
    pad_token: int = 0
    classes: tuple[str, ...] = ()
    problem_type: str | None = None
    drawn: tuple[str, ...] = ()
    origin: Origin | None = None

    @property
    def parameters(self) -> int:
        """How many numbers the parameters hold."""
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(self.params))

    def configure(self, **changes) -> "Model":
        """The same parameters under a changed configuration: ``dtype``, ``remat``, ``collect``, ``dropout`` ...

        Changing ``scan`` stacks the layers' parameters or takes them apart (see
        `ft_jax.models.networks.parts.stacking`).

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
                raise ValueError(f"{type(self.config).__name__} has no {printable(name)}; it has {', '.join(known)}")
        config, params, before = dataclasses.replace(self.config, **changes), self.params, self.config
        if "scan" in changes:
            params = (stack_layers if config.scan else unstack_layers)(params)
            before = dataclasses.replace(before, scan=config.scan)
        if shapes(config) != shapes(before):
            raise ValueError(f"changing {', '.join(changes)} changes the parameters' shapes; build a new model instead")
        apply = dataclasses.replace(self.apply, config=config)
        return dataclasses.replace(self, config=config, params=params, apply=apply)


def build(config, key: jax.Array | None) -> Model:
    """A random model of any configuration; without a key, its shapes alone."""
    return Model(config, initial_parameters(config, key), Forward(config), drawn=("*",))


def encoder(config: EncoderConfig, key: jax.Array | None) -> Model:
    """A random encoder; without a key, its shapes alone."""
    return build(config, key)


def decoder(config: DecoderConfig, key: jax.Array | None) -> Model:
    """A random decoder; without a key, its shapes alone.

    Example:
      >>> config = DecoderConfig(
      ...     vocabulary=1000, width=64, layers=2, heads=4, key_value_heads=2, head_width=16, mlp_width=128
      ... )
      >>> decoder(config, None).parameters
      138048
    """
    return build(config, key)


def mlp(config: MLPConfig, key: jax.Array | None) -> Model:
    """A random multilayer perceptron on images; without a key, its shapes alone."""
    return build(config, key)


def vit(config: ViTConfig, key: jax.Array | None) -> Model:
    """A random vision transformer; without a key, its shapes alone."""
    return build(config, key)


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
