"""A robot finds its way through four rooms: PPO in 64 copies, evaluated from held-out places to held-out goals.

Where an evaluation falls short of 95% the weight of the entropy is lowered, and a bad turn is undone; the log says when
and why. ``python -m experiments.rl.grid --out FILE`` trains three seeds and writes a line.
"""

import argparse
import json
from pathlib import Path

from ft_jax.core import supervised
from ft_jax.models import MLPConfig
from ft_jax.rl.agents import returns, succeeded
from ft_jax.rl.environments import Grid
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.episodes import Episodes
from ft_jax.training.specs import Untrained

from ..study import by_seed, write_lines

GRID = Grid()

experiment = Experiment(
    name="rl/grid",
    model=Untrained(MLPConfig(GRID.observation, (128, 128), 4, "tanh")),
    data=Episodes(200),
    method=(
        Use("rl.adjust", metric="success", target=0.95, factors={"rl.agent_ppo.entropy_weight": 0.7}, worse=0.2),
        Use("rl.agent_ppo", environment=GRID, copies=64, steps=32, critic=(128, 128), entropy_weight=0.02),
    ),
    optimizer=OptimizerSpec("adam", learning_rate=1e-3, max_norm=0.5, schedule="linear", options={"eps": 1e-5}),
    budget=Budget(steps=6_000, batch_size=1),
    loss=lambda model: supervised(model.apply),
    predict=returns,
    metrics={"success": succeeded},
    evaluation=EvaluationSpec(every=500, metric="success", mode="max"),
    log_every=250,
    expect={"success": 0.95},
)
seeds = 3


def main() -> None:
    """Prints the line and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/grid.jsonl"))
    arguments = parser.parse_args()
    about = {"method": "rl.agent_ppo", "updates": experiment.budget.steps, "target": experiment.expect["success"]}
    line = about | {"held_out": experiment.data.held_out} | by_seed(experiment, "success", seeds)
    print(json.dumps(line))
    write_lines(arguments.out, [line])


if __name__ == "__main__":
    main()
