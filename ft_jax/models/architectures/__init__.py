"""What each published architecture calls its configuration and its tensors."""

import difflib

from ft_jax.models.architectures import bert, llama
from ft_jax.models.architectures.naming import Architecture, Tensor, flat, nested

ARCHITECTURES = {
    name: architecture for architecture in (bert.BERT, llama.LLAMA, llama.QWEN2) for name in architecture.model_types
}


def architecture_of(model_type: str) -> Architecture:
    """The architecture of a config.json's ``model_type`` or a GGUF file's ``general.architecture``.

    Raises:
      ValueError: where it is unknown, with the nearest name.
    """
    if isinstance(model_type, str) and model_type in ARCHITECTURES:
        return ARCHITECTURES[model_type]
    near = difflib.get_close_matches(str(model_type), ARCHITECTURES, n=1, cutoff=0.0)
    raise ValueError(
        f"architecture {model_type!r} is unknown; known are {', '.join(sorted(ARCHITECTURES))} (nearest: {near[0]!r})"
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
