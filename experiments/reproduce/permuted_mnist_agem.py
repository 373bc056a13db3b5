"""A-GEM on permuted MNIST: 17 tasks, each seen once, and how much of them is known at the end."""

import numpy as np
import optax

from ft_jax import incremental
from ft_jax.training.report.charts import Series, line_chart
from ft_jax.training.reproduction import Found, Reproduction, at_least, within

from ._permuted import accuracies, example

TASKS, QUICK, MEMORIES, SAMPLE, BATCH = 17, 3, 250, 256, 10
FEW, ALL = "1,000 digits a task", "all digits in every task, the first seed alone"


def measure(seeds, quick, address):
    """The mean test accuracy over all tasks after the last, with A-GEM and without."""
    tasks = QUICK if quick else TASKS
    setting = {"tasks": tasks, "widths": (256, 256), "rate": 0.1, "optimiser": optax.sgd, "batch": BATCH}
    methods = {"A-GEM": incremental.agem(tasks * MEMORIES, SAMPLE, example(BATCH)), "naive": None}
    findings, pictures = [], {}
    for said, examples, some in ((FEW, 1000, seeds), (ALL, None, () if quick else seeds[:1])):
        if not some:
            continue
        tables = {
            name: np.array([accuracies(one, address, seed, examples=examples, **setting) for seed in some])
            for name, one in methods.items()
        }
        ends = {name: found[:, -1].mean(axis=-1) for name, found in tables.items()}
        if not quick:
            findings.append(within(f"mean accuracy over 17 tasks after the last, {said}", 0.81, ends["A-GEM"], 0.03))
        gain = float(ends["A-GEM"].mean() - ends["naive"].mean())
        findings.append(at_least(f"accuracy above naive training's, {said}", 0.05, gain))
        lines = [
            Series(name, [(t + 1, float(found[:, t, : t + 1].mean())) for t in range(tasks)])
            for name, found in tables.items()
        ]
        pictures[f"mean accuracy on the tasks so far, {said}"] = line_chart("accuracy", lines)
    return Found(findings, pictures)


reproduction = Reproduction(
    title="A-GEM on permuted MNIST",
    paper="Chaudhry et al. 2019, arXiv:1812.00420",
    where="the row of avalanche's continual-learning-baselines, with the numbers of its permuted_mnist/agem.py",
    setting="other",
    difference=(
        "1,000 digits a task, as in GEM's row, and for one seed all digits of the file, where the baseline's tasks "
        "have 60,000 each; memories are a uniform sample of all earlier tasks, 250 for each task that comes."
    ),
    measure=measure,
    seeds=(0, 1, 2),
    seconds=360,
    data="mnist",
)
