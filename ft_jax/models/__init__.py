"""Models of text, images and sound, loaded from what people have and saved for what they use."""

from ft_jax.models.attention import Mask, attention
from ft_jax.models.audio import Whisper, WhisperConfig
from ft_jax.models.decoder import Decoder, DecoderConfig
from ft_jax.models.dual import Dual, DualConfig, TextTowerConfig, sigmoid_contrastive
from ft_jax.models.encoder import Encoder, EncoderConfig
from ft_jax.models.experts import load_balance
from ft_jax.models.export import save
from ft_jax.models.generate import Generation, generate
from ft_jax.models.generate_from import generate_from
from ft_jax.models.heads import HEADS, masked_mean, sentence_embedding, with_classifier, with_head
from ft_jax.models.load import load
from ft_jax.models.log_mel import log_mel
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
from ft_jax.models.modern_encoder import ModernEncoder, ModernEncoderConfig
from ft_jax.models.peft_files import load_adapter, save_adapter
from ft_jax.models.rope import RopeScaling
from ft_jax.models.speculative import Speculation, speculate
from ft_jax.models.stacking import stack_layers, unstack_layers
from ft_jax.models.t5 import T5, T5Config
from ft_jax.models.vision import MLPConfig, Perceptron, VisionTransformer, ViTConfig
from ft_jax.models.vlm import VisionLanguage, VisionLanguageConfig

__all__ = [
    "HEADS",
    "T5",
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
    "Speculation",
    "T5Config",
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
    "generate_from",
    "load",
    "load_adapter",
    "load_balance",
    "log_mel",
    "masked_mean",
    "mlp",
    "save",
    "save_adapter",
    "sentence_embedding",
    "shapes",
    "sigmoid_contrastive",
    "speculate",
    "stack_layers",
    "tiny_decoder",
    "tiny_encoder",
    "unstack_layers",
    "vit",
    "with_classifier",
    "with_head",
]
