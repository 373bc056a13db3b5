"""Knowledge distillation: a student learns from a teacher.

- `logits`: the student's softened distribution is drawn to the teacher's.
- `reverse_kl`, `jsd`, `skewed_kl`, `standardised`, `dkd`: other distances of the two distributions.
- `dist`: correlation in place of distance, over classes and over examples.
- `several`: the mean of several teachers. `own_average`: the student's own moving average teaches it.
- `on_policy`: the student writes the answers that the others compare (GKD with `jsd`).
- `privileged`: the model that is shown a demonstration teaches the one that is not (SDFT with `on_policy`).
- `cached_logits`: a teacher whose likeliest classes stand beside the data, see ``ft-jax cache-teacher``.
- `uld`: a teacher with another tokenizer.
- `hints`: hidden states, through a learned projection. `attention_scores`: head by head (TinyBERT, with `hints`).
- `relations`: among a layer's queries, keys and values (MiniLMv2). `rkd`: distances and angles among examples.
- `crd`: representations told from those of other examples, over banks of all of them.
"""

from ft_jax.distillation.attention_scores import attention_scores
from ft_jax.distillation.cached_logits import cached_logits
from ft_jax.distillation.crd import crd
from ft_jax.distillation.dist import dist
from ft_jax.distillation.divergences import dkd, jsd, reverse_kl, skewed_kl, standardised
from ft_jax.distillation.logits import logits
from ft_jax.distillation.on_policy import on_policy
from ft_jax.distillation.privileged import privileged
from ft_jax.distillation.relations import relations
from ft_jax.distillation.several import own_average, several
from ft_jax.distillation.states import hints, rkd
from ft_jax.distillation.uld import uld

__all__ = [
    "attention_scores",
    "cached_logits",
    "crd",
    "dist",
    "dkd",
    "hints",
    "jsd",
    "logits",
    "on_policy",
    "own_average",
    "privileged",
    "relations",
    "reverse_kl",
    "rkd",
    "several",
    "skewed_kl",
    "standardised",
    "uld",
]
