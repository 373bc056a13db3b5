"""What each published architecture calls its configuration and its tensors."""

import difflib

from ft_jax.models.architectures import (
    bert,
    distilbert,
    dual_towers,
    gemma,
    gpt2,
    llama,
    modernbert,
    phi3,
    roberta,
    t5,
    vision_language,
    vision_towers,
    whisper,
)
from ft_jax.models.architectures.naming import Architecture, Tensor, flat, nested
from ft_jax.outside import printable

KNOWN = (
    bert.BERT,
    llama.LLAMA,
    llama.MISTRAL,
    llama.QWEN2,
    llama.QWEN3,
    llama.SMOLLM3,
    llama.MIXTRAL,
    llama.QWEN3_MOE,
    gemma.GEMMA,
    gemma.GEMMA2,
    gemma.GEMMA3,
    gpt2.GPT2,
    phi3.PHI3,
    roberta.ROBERTA,
    distilbert.DISTILBERT,
    modernbert.MODERNBERT,
    vision_towers.VIT,
    vision_towers.DINOV2,
    dual_towers.CLIP,
    dual_towers.SIGLIP,
    t5.T5,
    whisper.WHISPER,
    vision_language.LLAVA,
    vision_language.PALIGEMMA,
)
"""In the order in which a configuration that names no family is tried on them."""

ARCHITECTURES = {name: architecture for architecture in KNOWN for name in architecture.model_types}


def architecture_of(model_type: str) -> Architecture:
    """The architecture of a config.json's ``model_type`` or a GGUF file's ``general.architecture``.

    Raises:
      ValueError: where it is unknown, with the nearest name.
    """
    if isinstance(model_type, str) and model_type in ARCHITECTURES:
        return ARCHITECTURES[model_type]
    near = difflib.get_close_matches(str(model_type), ARCHITECTURES, n=1, cutoff=0.0)
    raise ValueError(
        f"architecture {printable(model_type)} is unknown; known are {', '.join(sorted(ARCHITECTURES))} (nearest: "
        f"{printable(near[0])})"
    )


def architecture_for(config) -> Architecture:
    """The architecture a configuration is saved as.

    Raises:
      ValueError: where no architecture fits.
    """
    for architecture in ARCHITECTURES.values():
        if architecture.fits(config):
            return architecture
    raise ValueError(
        f"{type(config).__name__} has no published format to be saved in; save a run's checkpoint instead, or use "
        "an encoder or a decoder"
    )


__all__ = ["ARCHITECTURES", "Architecture", "Tensor", "architecture_for", "architecture_of", "flat", "nested"]
