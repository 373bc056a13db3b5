"""What embeddings and fused answers are worth: retrieval, captions, and scores where a modality is gone."""

from ft_jax.multimodal.evaluation.patches import patch_attention
from ft_jax.multimodal.evaluation.pictures import (
    caption_picture,
    embedding_picture,
    in_two_dimensions,
    retrieval_picture,
)
from ft_jax.multimodal.evaluation.scores import bleu, corrupted, exact_match, recalls, without, without_each

__all__ = [
    "bleu",
    "caption_picture",
    "corrupted",
    "embedding_picture",
    "exact_match",
    "in_two_dimensions",
    "patch_attention",
    "recalls",
    "retrieval_picture",
    "without",
    "without_each",
]
