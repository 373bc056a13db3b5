"""CartPole-v1 by PPO with CleanRL's numbers: 500,000 steps, three agents in one program."""

from ft_jax.training.reproduction import Reproduction

from ..rl.cartpole import UPDATES, experiment
from ._agents import DIFFERENCE, measured


def measure(seeds, quick):
    """The mean reward of a hundred held-out episodes for each agent, all from one run."""
    steps, least = (200 * UPDATES, 150) if quick else (None, 475)
    return measured(experiment, seeds, steps, least, paper="490.04 ± 6.12 (ppo.py)")


reproduction = Reproduction(
    title="CartPole-v1 by PPO in 500,000 steps",
    paper="Huang et al. 2022, CleanRL, JMLR 23(274)",
    where="the documentation's table of ppo.py",
    setting="other",
    difference=DIFFERENCE,
    measure=measure,
    seeds=(0,),
    seconds=39.5,
)
