"""Multimodal learning: several kinds of input, one space.

Contrast, with a second tower that the method brings along:

- `clip`, `siglip`: by a softmax over the batch, or a sigmoid for each pair (around a ring of devices).
- `hard_negatives`: CLIP whose examples bring negatives of their own. `late_interaction`: token by token (MaxSim).
- `coca`: and captions told from the image. `bind`: many modalities through one anchor.
- `matryoshka`: around any of them, also on the first numbers of the embeddings.
- `lit`: the image tower stays. `temperature`: the scale is held.

A model that holds both towers, such as a loaded CLIP:

- `pairs`: its contrastive loss (FLYP on captions made of labels). `zero_shot`: a classifier made of prompts, on which
  `coop` learns words and `clip_adapter` a residual network.

One network of several modalities, any of them missing:

- `model`: encoders, a fusion, a head. `modality_dropout`: some are taken away in training. `alike`: its
  representations by each modality alone are compared.
"""

from ft_jax.multimodal.binding import Tower, bind
from ft_jax.multimodal.clip import clip, contrastive, embed
from ft_jax.multimodal.clip_adapter import clip_adapter
from ft_jax.multimodal.coca import coca
from ft_jax.multimodal.coop import coop
from ft_jax.multimodal.hard_negatives import hard_negatives
from ft_jax.multimodal.late_interaction import late_interaction, max_similarities
from ft_jax.multimodal.lit import lit
from ft_jax.multimodal.matryoshka import matryoshka
from ft_jax.multimodal.network import alike, model
from ft_jax.multimodal.presence import modality_dropout, present_in
from ft_jax.multimodal.siglip import siglip, sigmoid_contrastive
from ft_jax.multimodal.temperature import temperature
from ft_jax.multimodal.towers_in_one import pairs, similarities, zero_shot

__all__ = [
    "Tower",
    "alike",
    "bind",
    "clip",
    "clip_adapter",
    "coca",
    "contrastive",
    "coop",
    "embed",
    "hard_negatives",
    "late_interaction",
    "lit",
    "matryoshka",
    "max_similarities",
    "modality_dropout",
    "model",
    "pairs",
    "present_in",
    "siglip",
    "sigmoid_contrastive",
    "similarities",
    "temperature",
    "zero_shot",
]
