"""CartPole-v1 by PPO with CleanRL's numbers: 500,000 steps, three agents in one program."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from ft_jax.training import fit
from ft_jax.training.reproduction import Found, Reproduction, at_least

from ..rl.cartpole import UPDATES, experiment


def measure(seeds, quick):
    """The mean reward of a hundred held-out episodes for each agent, all from one run."""
    budget = experiment.budget if not quick else dataclasses.replace(experiment.budget, steps=200 * UPDATES)
    run = dataclasses.replace(experiment, budget=budget, expect={}, seed=seeds[0])
    with tempfile.TemporaryDirectory() as folder:
        result = fit(run, run=Path(folder) / "cartpole", quiet=True)
    found = np.ravel(result.scores["after"]["episodes"]["return"])
    least = 475 if not quick else 150
    return Found([at_least("mean reward of 100 episodes", least, found, paper="490.04 ± 6.12 (ppo.py)")])


reproduction = Reproduction(
    title="CartPole-v1 by PPO in 500,000 steps",
    paper="Huang et al. 2022, CleanRL, JMLR 23(274)",
    where="the documentation's table of ppo.py",
    setting="other",
    difference="held-out episodes with the likeliest action, where CleanRL averages the last training episodes; the "
    "three agents begin with one network and differ in what they live through.",
    measure=measure,
    seeds=(0,),
    seconds=39.5,
)
