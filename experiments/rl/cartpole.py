"""CartPole by PPO: three agents in one program, 500,000 steps each, evaluated on held-out episodes.

The numbers are CleanRL's; its table has 490 ± 6. A run takes about a minute on two CPU cores.
"""

from ft_jax.core import supervised
from ft_jax.models import MLPConfig
from ft_jax.rl.agents import episode_return, returns
from ft_jax.rl.environments import CartPole
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.episodes import Episodes
from ft_jax.training.specs import Untrained

COPIES, STEPS, UPDATES = 4, 128, 16
"""Copies of the environment, steps between updates, and updates after them: 4 epochs of 4 minibatches."""

experiment = Experiment(
    name="rl/cartpole",
    model=Untrained(MLPConfig((1, 1, 4), (64, 64), 2, "tanh")),
    data=Episodes(100),
    method=(
        Use("ensemble.members", count=3, fusion=None),
        Use("rl.agent_ppo", environment=CartPole(), copies=COPIES, steps=STEPS),
    ),
    optimizer=OptimizerSpec("adam", learning_rate=2.5e-4, max_norm=0.5, schedule="linear", options={"eps": 1e-5}),
    budget=Budget(steps=500_000 // (COPIES * STEPS) * UPDATES, batch_size=1),
    loss=lambda model: supervised(model.apply),
    predict=returns,
    metrics={"return": episode_return},
    evaluation=EvaluationSpec(every=3_000, metric="return", mode="max"),
    log_every=500,
    expect={"return": 475.0},
)
