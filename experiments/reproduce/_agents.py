"""What the rows of agents share: three agents in one program, held-out episodes at the end, a picture on the way."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ft_jax.training import Experiment, fit
from ft_jax.training.report.charts import Series, line_chart
from ft_jax.training.reproduction import Found, at_least

DIFFERENCE = (
    "held-out episodes with the likeliest action, where CleanRL averages the last training episodes; the three agents "
    "begin with one network and differ in what they live through."
)


def measured(experiment: Experiment, seeds: Sequence[int], steps: int | None, least: float, paper: str) -> Found:
    """The mean reward of a hundred held-out episodes for each agent, all from one run.

    Args:
      experiment: its evaluation set is ``episodes``, its metric ``return``.
      seeds: the first is the run's.
      steps: updates in place of the experiment's; None for its own.
      least: what the mean over the agents is asked to be.
      paper: the number beside it.
    """
    budget = experiment.budget if steps is None else dataclasses.replace(experiment.budget, steps=steps)
    run = dataclasses.replace(experiment, budget=budget, expect={}, seed=seeds[0])
    curve = []

    def keep(moment):
        curve.append((moment.step, np.ravel(moment.scores["episodes"]["return"]).tolist()))

    with tempfile.TemporaryDirectory() as folder:
        result = fit(run, run=Path(folder) / "run", callbacks=[keep], quiet=True)
    found = np.ravel(result.scores["after"]["episodes"]["return"])
    picture = line_chart("return", [Series("agents", curve)])
    finding = at_least("mean reward of 100 episodes", least, found, paper=paper)
    return Found([finding], {"held-out return by update, mean and range of three agents": picture})
