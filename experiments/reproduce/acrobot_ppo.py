"""Acrobot-v1 by PPO with CleanRL's numbers: 500,000 steps, three agents in one program."""

import dataclasses

from ft_jax.models import MLPConfig
from ft_jax.rl.environments import Acrobot
from ft_jax.training import Use
from ft_jax.training.reproduction import Reproduction
from ft_jax.training.specs import Untrained

from ..rl import cartpole
from ._agents import DIFFERENCE, measured

experiment = dataclasses.replace(
    cartpole.experiment,
    name="rl/acrobot",
    model=Untrained(MLPConfig((1, 1, 6), (64, 64), 3, "tanh")),
    method=(
        Use("ensemble.members", count=3, fusion=None),
        Use("rl.agent_ppo", environment=Acrobot(), copies=cartpole.COPIES, steps=cartpole.STEPS),
    ),
)


def measure(seeds, quick):
    """The mean reward of a hundred held-out episodes for each agent; asked is the paper's mean less its spread."""
    steps, least = (200 * cartpole.UPDATES, -300) if quick else (None, -87.68)
    return measured(experiment, seeds, steps, least, paper="-86.36 ± 1.32 (ppo.py)")


reproduction = Reproduction(
    title="Acrobot-v1 by PPO in 500,000 steps",
    paper="Huang et al. 2022, CleanRL, JMLR 23(274)",
    where="the documentation's table of ppo.py",
    setting="other",
    difference=f"an episode cut by its limit goes on in value, where CleanRL's ends; {DIFFERENCE}",
    measure=measure,
    seeds=(0,),
    seconds=162,
)
