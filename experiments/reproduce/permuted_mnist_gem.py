"""GEM on permuted MNIST: 20 tasks of 1,000 digits, each seen once, and how much of them is known at the end."""

import numpy as np
import optax

from ft_jax import incremental
from ft_jax.core.state import Batch
from ft_jax.training.report.charts import Series, line_chart
from ft_jax.training.reproduction import Found, Reproduction, at_least, within

from ._permuted import accuracies, example

TASKS, QUICK, MEMORIES, STRENGTH, BATCH = 20, 3, 256, 0.5, 10


def one(batch: Batch, tasks: int):
    """GEM as the authors run it."""
    return incremental.gem(tasks, MEMORIES, batch, strength=STRENGTH)


def measure(seeds, quick, address):
    """The mean test accuracy over all tasks after the last, with GEM and without."""
    tasks = QUICK if quick else TASKS
    setting = {
        "tasks": tasks,
        "widths": (100, 100),
        "rate": 0.1,
        "optimiser": optax.sgd,
        "batch": BATCH,
        "examples": 1000,
    }
    tables = {
        "GEM": [accuracies(one(example(BATCH), tasks), address, seed, **setting) for seed in seeds],
        "naive": [accuracies(None, address, seed, **setting) for seed in seeds],
    }
    ends = {name: [float(table[-1].mean()) for table in found] for name, found in tables.items()}
    lines = [
        Series(
            name,
            [(task + 1, float(np.mean([table[task, : task + 1].mean() for table in found]))) for task in range(tasks)],
        )
        for name, found in tables.items()
    ]
    gain = at_least("accuracy above naive training's", 0.05, float(np.mean(ends["GEM"]) - np.mean(ends["naive"])))
    whole = [] if quick else [within("mean accuracy over 20 tasks after the last", 0.83, ends["GEM"], 0.03)]
    return Found([*whole, gain], {"mean accuracy on the tasks so far, by task": line_chart("accuracy", lines)})


reproduction = Reproduction(
    title="GEM on permuted MNIST, 1,000 digits a task",
    paper="Lopez-Paz and Ranzato 2017, arXiv:1706.08840",
    where="figure 1, left, with the numbers of the authors' run_experiments.sh",
    setting="other",
    difference=(
        "a task's memories are a uniform sample of its digits, where the paper keeps the last; with a file of fewer "
        "digits tasks draw their 1,000 from those."
    ),
    measure=measure,
    seeds=(0, 1, 2),
    seconds=600,
    data="mnist",
)
