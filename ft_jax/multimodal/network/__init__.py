"""One network of several modalities: encoders, a fusion, a head, and the loss that compares them."""

from ft_jax.multimodal.network.alike import alike
from ft_jax.multimodal.network.fusion import FUSIONS
from ft_jax.multimodal.network.model import Multimodal, MultimodalConfig, encoding, model

__all__ = ["FUSIONS", "Multimodal", "MultimodalConfig", "alike", "encoding", "model"]
