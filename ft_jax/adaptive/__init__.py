"""Adaptive learning: training that changes its own strategy.

- `uncertainty`: loss terms weighed by learned noise variances.
- `pcgrad`, `cagrad`, `mgda`, `upgrad`, `imtl`, `aligned`: the terms' gradients combined so that they conflict less.
- `gradnorm`, `dwa`, `famo`: terms weighed by how fast each learns.
- `focal`, `self_paced`, `hard_examples`: examples weighed by how hard they are.
- `augment`: examples altered with a probability that a controller may move.
- `data_mixing`: sources of data drawn by what is still to be learned from them.
- `plateau`: a number lowered when a metric stops improving.
- `recovery`: back to the best parameters, with another number, when a metric has been worse for a while.
- `schedule_free`: an average in place of a falling rate.
- `sam`: gradients from where the loss nearby is worst.
- `tent`: adaptation to a stream without labels.
- `spike_guard`: steps whose gradient norm is out of line skipped or clipped.
"""

from ft_jax.adaptive.augment import augment
from ft_jax.adaptive.balance import aligned, cagrad, dwa, famo, gradnorm, imtl, mgda, pcgrad, upgrad
from ft_jax.adaptive.data_mixing import data_mixing
from ft_jax.adaptive.difficulty import focal, hard_examples, self_paced
from ft_jax.adaptive.plateau import plateau
from ft_jax.adaptive.recovery import recovery
from ft_jax.adaptive.sam import sam
from ft_jax.adaptive.schedule_free import schedule_free
from ft_jax.adaptive.spike_guard import spike_guard
from ft_jax.adaptive.tent import tent
from ft_jax.adaptive.uncertainty import uncertainty

__all__ = [
    "aligned",
    "augment",
    "cagrad",
    "data_mixing",
    "dwa",
    "famo",
    "focal",
    "gradnorm",
    "hard_examples",
    "imtl",
    "mgda",
    "pcgrad",
    "plateau",
    "recovery",
    "sam",
    "schedule_free",
    "self_paced",
    "spike_guard",
    "tent",
    "uncertainty",
    "upgrad",
]
