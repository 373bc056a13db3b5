"""What embeddings and fused answers are worth: retrieval, captions, and scores where a modality is gone."""

from ft_jax.multimodal.evaluation.pictures import caption_picture, embedding_picture, retrieval_picture
from ft_jax.multimodal.evaluation.scores import bleu, corrupted, exact_match, recalls, without, without_each

__all__ = [
    "bleu",
    "caption_picture",
    "corrupted",
    "embedding_picture",
    "exact_match",
    "recalls",
    "retrieval_picture",
    "without",
    "without_each",
]
