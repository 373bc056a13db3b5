"""Models: encoders, decoders and image networks, loaded from what people have and saved for what they use."""

from ft_jax.models.attention import Mask, attention
from ft_jax.models.decoder import Decoder, DecoderConfig, RopeScaling
from ft_jax.models.encoder import Encoder, EncoderConfig
from ft_jax.models.export import save
from ft_jax.models.generate import Generation, generate
from ft_jax.models.load import load
from ft_jax.models.model import (
    Forward,
    Model,
    decoder,
    encoder,
    masked_mean,
    mlp,
    sentence_embedding,
    shapes,
    tiny_decoder,
    tiny_encoder,
    vit,
    with_classifier,
)
from ft_jax.models.vision import MLPConfig, Perceptron, VisionTransformer, ViTConfig

__all__ = [
    "Decoder",
    "DecoderConfig",
    "Encoder",
    "EncoderConfig",
    "Forward",
    "Generation",
    "MLPConfig",
    "Mask",
    "Model",
    "Perceptron",
    "RopeScaling",
    "ViTConfig",
    "VisionTransformer",
    "attention",
    "decoder",
    "encoder",
    "generate",
    "load",
    "masked_mean",
    "mlp",
    "save",
    "sentence_embedding",
    "shapes",
    "tiny_decoder",
    "tiny_encoder",
    "vit",
    "with_classifier",
]
