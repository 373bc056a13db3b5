"""Loss balance: what a step does with the terms of a loss that pull in different directions.

By the Gram matrix of the terms' gradients: `pcgrad`, `cagrad`, `mgda`, `upgrad`, `imtl`, `aligned`. By the terms'
norms and values over time: `gradnorm`, `dwa`, `famo`.
"""

from ft_jax.adaptive.balance.dwa import dwa
from ft_jax.adaptive.balance.famo import famo
from ft_jax.adaptive.balance.gradients import aligned, cagrad, imtl, mgda, pcgrad, upgrad
from ft_jax.adaptive.balance.gradnorm import gradnorm

__all__ = ["aligned", "cagrad", "dwa", "famo", "gradnorm", "imtl", "mgda", "pcgrad", "upgrad"]
