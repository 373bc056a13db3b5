"""Transfer learning: a pretrained backbone, a small task layer, and what of them learns.

- `full`: every weight learns.
- `head_only`: the task layer learns on frozen features.
- `lora`: low-rank updates of chosen projections.
- `rslora`: LoRA whose scale does not shrink with the rank; `pissa`, `olora`, `eva`, `loftq`: LoRA from another start.
- `adalora`: low-rank updates that share a budget of ranks and lose what matters least.
- `dora`, `vera`, `loha`, `lokr`, `fourierft`: other updates of few parameters; `oft`, `boft`, `hra`: rotations.
- `houlsby`, `pfeiffer`: bottleneck modules behind projections.
- `quantize`: a packed base of 4 or 8 bits under any of them (QLoRA).
- `bank`: several adapters on one base, switched, mixed, or one for each example.
- `hypernetwork`: a network that writes adapters from a description of the task.
- `peft`: these adapters in peft's files, for `ft_jax.models.load_adapter` and `save_adapter`.
- `lora_plus`: a higher learning rate for LoRA's second factor.
- `lp_ft`: the head first, then everything.
- `gradual_unfreezing`, `discriminative`: layers thawed one after another, and a learning rate for each.
- `trainable_tokens`: the embeddings of a few tokens.
- `bitfit`, `norm_tuning`: only the biases, only the norms.
- `l2_sp`: a penalty on the distance from the pretrained weights.
- `galore`: every weight learns with a small optimizer state, in a low-rank subspace of the gradients.
- `joint`: a backbone's loss on unlabelled data and the task's loss, minimised together; the backbone losses
  are `contrastive`, `masked_language_modelling`, `causal_language_modelling` and `masked_image_modelling`.
- `dapt`: continued pretraining on the target's text first, then the task.
- `pseudo_labels`, `fixmatch`, `uda`, `training_signal_annealing`: the model's own predictions on unlabelled examples.
- `dann`, `coral`, `mmd`: representations that are the same in two domains.
"""

from ft_jax.transfer import peft
from ft_jax.transfer.adalora import adalora
from ft_jax.transfer.backbone import causal_language_modelling, contrastive, masked_language_modelling
from ft_jax.transfer.bank import bank
from ft_jax.transfer.bitfit import bitfit
from ft_jax.transfer.boft import boft
from ft_jax.transfer.bottleneck import houlsby, pfeiffer
from ft_jax.transfer.coral import coral
from ft_jax.transfer.dann import dann
from ft_jax.transfer.dapt import dapt
from ft_jax.transfer.discriminative import discriminative
from ft_jax.transfer.dora import dora
from ft_jax.transfer.eva import eva
from ft_jax.transfer.fixmatch import fixmatch
from ft_jax.transfer.fourierft import fourierft
from ft_jax.transfer.full import full
from ft_jax.transfer.galore import galore
from ft_jax.transfer.gradual_unfreezing import gradual_unfreezing
from ft_jax.transfer.half_precision import master_copies, stochastic_rounding
from ft_jax.transfer.head_only import head_only
from ft_jax.transfer.hra import hra
from ft_jax.transfer.hypernetwork import hypernetwork
from ft_jax.transfer.joint import joint
from ft_jax.transfer.l2_sp import l2_sp
from ft_jax.transfer.loha import loha
from ft_jax.transfer.lokr import lokr
from ft_jax.transfer.lora import lora, rslora
from ft_jax.transfer.lora_plus import lora_plus
from ft_jax.transfer.lp_ft import lp_ft
from ft_jax.transfer.mmd import mmd
from ft_jax.transfer.norm_tuning import norm_tuning
from ft_jax.transfer.oft import oft
from ft_jax.transfer.pissa import olora, pissa
from ft_jax.transfer.pseudo_labels import pseudo_labels
from ft_jax.transfer.qlora import loftq, quantize
from ft_jax.transfer.reconstruction import masked_image_modelling
from ft_jax.transfer.trainable_tokens import trainable_tokens
from ft_jax.transfer.uda import training_signal_annealing, uda
from ft_jax.transfer.vera import vera

__all__ = [
    "adalora",
    "bank",
    "bitfit",
    "boft",
    "causal_language_modelling",
    "contrastive",
    "coral",
    "dann",
    "dapt",
    "discriminative",
    "dora",
    "eva",
    "fixmatch",
    "fourierft",
    "full",
    "galore",
    "gradual_unfreezing",
    "head_only",
    "houlsby",
    "hra",
    "hypernetwork",
    "joint",
    "l2_sp",
    "loftq",
    "loha",
    "lokr",
    "lora",
    "lora_plus",
    "lp_ft",
    "masked_image_modelling",
    "masked_language_modelling",
    "master_copies",
    "mmd",
    "norm_tuning",
    "oft",
    "olora",
    "peft",
    "pfeiffer",
    "pissa",
    "pseudo_labels",
    "quantize",
    "rslora",
    "stochastic_rounding",
    "trainable_tokens",
    "training_signal_annealing",
    "uda",
    "vera",
]
