"""Multimodal learning: several kinds of input, one space.

- `clip`: a second tower learned so that pairs lie close together; `embed` gives both sides' embeddings.
"""

from ft_jax.multimodal.clip import clip, contrastive, embed

__all__ = ["clip", "contrastive", "embed"]
