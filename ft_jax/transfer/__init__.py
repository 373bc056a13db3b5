"""Transfer learning: a pretrained backbone, a small task layer, and what of them learns.

- `full`: every weight learns.
- `head_only`: the task layer learns on frozen features.
- `lora`: low-rank updates of chosen projections.
- `lora_plus`: a higher learning rate for LoRA's second factor.
- `joint`: a backbone's loss on unlabelled data and the task's loss, minimised together; the backbone losses
  are `contrastive`, `masked_language_modelling` and `causal_language_modelling`.
"""

from ft_jax.transfer.backbone import causal_language_modelling, contrastive, masked_language_modelling
from ft_jax.transfer.full import full
from ft_jax.transfer.head_only import head_only
from ft_jax.transfer.joint import joint
from ft_jax.transfer.lora import lora
from ft_jax.transfer.lora_plus import lora_plus

__all__ = [
    "causal_language_modelling",
    "contrastive",
    "full",
    "head_only",
    "joint",
    "lora",
    "lora_plus",
    "masked_language_modelling",
]
