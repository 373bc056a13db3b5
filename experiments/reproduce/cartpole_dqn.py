"""CartPole-v1 by DQN with CleanRL's numbers: 500,000 steps, three agents in one program, each with its buffer."""

from ft_jax.core import supervised
from ft_jax.models import MLPConfig
from ft_jax.rl.agents import episode_return, returns
from ft_jax.rl.environments import CartPole
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.episodes import Episodes
from ft_jax.training.reproduction import Reproduction
from ft_jax.training.specs import Untrained

from ._agents import DIFFERENCE, measured

experiment = Experiment(
    name="rl/cartpole_dqn",
    model=Untrained(MLPConfig((1, 1, 4), (120, 84), 2)),
    data=Episodes(100),
    method=(
        Use("ensemble.members", count=3, fusion=None),
        Use("rl.dqn", environment=CartPole(), interval=10, capacity=10_000, size=128, begin=10_000, period=50),
    ),
    optimizer=OptimizerSpec("adam", learning_rate=2.5e-4),
    budget=Budget(steps=50_000, batch_size=1),
    loss=lambda model: supervised(model.apply),
    predict=returns,
    metrics={"return": episode_return},
    evaluation=EvaluationSpec(every=2_500, metric="return", mode="max"),
    log_every=1_000,
)
"""An update for every 10 steps; exploring ends after half of them, as `ft_jax.rl.dqn` does it."""


def measure(seeds, quick):
    """The mean reward of a hundred held-out episodes for each agent; asked is the paper's mean less its spread."""
    steps, least = (8_000, 60) if quick else (None, 496.09)
    return measured(experiment, seeds, steps, least, paper="498.38 ± 2.29 (dqn_jax.py)")


reproduction = Reproduction(
    title="CartPole-v1 by DQN in 500,000 steps",
    paper="Huang et al. 2022, CleanRL, JMLR 23(274)",
    where="the documentation's table of dqn_jax.py",
    setting="other",
    difference=DIFFERENCE,
    measure=measure,
    seeds=(0,),
    seconds=395,
)
