"""Models of text, images and sound, loaded from what people have and saved for what they use."""

from ft_jax.models.checkpoints.export import save
from ft_jax.models.checkpoints.load import load
from ft_jax.models.depth import with_layers
from ft_jax.models.generation.generate import Generation, generate
from ft_jax.models.generation.generate_from import generate_from
from ft_jax.models.generation.speculative import Speculation, speculate
from ft_jax.models.generation.stream import stream
from ft_jax.models.generation.through import generate_by, generate_through
from ft_jax.models.heads import HEADS, masked_mean, sentence_embedding, with_classifier, with_head
from ft_jax.models.model import (
    Forward,
    Model,
    build,
    decoder,
    encoder,
    mlp,
    shapes,
    tiny_decoder,
    tiny_encoder,
    vit,
)
from ft_jax.models.networks.audio import Whisper, WhisperConfig
from ft_jax.models.networks.captioner import Captioner, CaptionerConfig
from ft_jax.models.networks.decoder import Decoder, DecoderConfig
from ft_jax.models.networks.dual import Dual, DualConfig, TextTowerConfig, sigmoid_contrastive
from ft_jax.models.networks.encoder import Encoder, EncoderConfig
from ft_jax.models.networks.log_mel import log_mel
from ft_jax.models.networks.modern_encoder import ModernEncoder, ModernEncoderConfig
from ft_jax.models.networks.parts.attention import Mask, attention
from ft_jax.models.networks.parts.experts import load_balance
from ft_jax.models.networks.parts.rope import RopeScaling
from ft_jax.models.networks.parts.stacking import stack_layers, unstack_layers
from ft_jax.models.networks.signal import Signal, SignalConfig
from ft_jax.models.networks.t5 import T5, T5Config
from ft_jax.models.networks.tabular import Tabular, TabularConfig
from ft_jax.models.networks.vision import MLPConfig, Perceptron, VisionTransformer, ViTConfig
from ft_jax.models.networks.vlm import VisionLanguage, VisionLanguageConfig
from ft_jax.models.peft.files import load_adapter, save_adapter
from ft_jax.models.vocabulary import resized, untied, with_tokens

__all__ = [
    "HEADS",
    "T5",
    "Captioner",
    "CaptionerConfig",
    "Decoder",
    "DecoderConfig",
    "Dual",
    "DualConfig",
    "Encoder",
    "EncoderConfig",
    "Forward",
    "Generation",
    "MLPConfig",
    "Mask",
    "Model",
    "ModernEncoder",
    "ModernEncoderConfig",
    "Perceptron",
    "RopeScaling",
    "Signal",
    "SignalConfig",
    "Speculation",
    "T5Config",
    "Tabular",
    "TabularConfig",
    "TextTowerConfig",
    "ViTConfig",
    "VisionLanguage",
    "VisionLanguageConfig",
    "VisionTransformer",
    "Whisper",
    "WhisperConfig",
    "attention",
    "build",
    "decoder",
    "encoder",
    "generate",
    "generate_by",
    "generate_from",
    "generate_through",
    "load",
    "load_adapter",
    "load_balance",
    "log_mel",
    "masked_mean",
    "mlp",
    "resized",
    "save",
    "save_adapter",
    "sentence_embedding",
    "shapes",
    "sigmoid_contrastive",
    "speculate",
    "stack_layers",
    "stream",
    "tiny_decoder",
    "tiny_encoder",
    "unstack_layers",
    "untied",
    "vit",
    "with_classifier",
    "with_head",
    "with_layers",
    "with_tokens",
]
