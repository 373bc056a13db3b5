"""One network of several modalities: encoders, a fusion, a head."""

from ft_jax.multimodal.network.fusion import FUSIONS
from ft_jax.multimodal.network.model import Multimodal, MultimodalConfig, encoding, model

__all__ = ["FUSIONS", "Multimodal", "MultimodalConfig", "encoding", "model"]
