"""ASHA's table 1 (nine trials, resource 9, eta 3): the trials and resource of every rung, by running the schedule."""

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.training.reproduction import Finding, Found, Reproduction, at_least
from ft_jax.tuning import Asha, rungs

TRIALS, RESOURCE = 9, 9
PRINTED = (((9, 1, 9), (3, 3, 9), (1, 9, 9)), ((9, 3, 27), (3, 9, 27)), ((9, 9, 81),))
"""Table 1: trials, resource of each and the sum of every rung, for early stopping rates s = 0, 1 and 2."""


def reached(schedule: Asha, quality: np.ndarray) -> list[int]:
    """How many trials one worker has taken to each rung when nothing is left to do; a trial scores its quality."""
    record, trial = schedule.start(1, len(quality)), jnp.zeros(1, jnp.int32)
    decide, age = jax.jit(schedule.decide), np.zeros(len(quality), int)
    while (one := int(trial[0])) >= 0:
        age[one] += 1
        record, trial, *_ = decide(record, trial, jnp.asarray(quality[[one]], jnp.float32), jax.random.key(0))
    return [int(np.sum(age >= rung)) for rung in schedule.rungs]


def measure(seeds, quick):
    """The table with the best trials first, where no trial goes on too early; and what random orders come to."""
    cells = []
    for s, printed in enumerate(PRINTED):
        schedule = Asha(rungs(3**s, RESOURCE))
        counts = reached(schedule, np.arange(TRIALS, 0, -1.0))
        ours = tuple((n, r, n * r) for n, r in zip(counts, schedule.rungs, strict=True))
        for k, (mine, asked) in enumerate(zip(ours, printed, strict=True)):
            what = f"s={s}, rung {k}: trials (resource {asked[1]} and sum {asked[2]} equal)"
            cells.append(Finding(what, str(asked[0]), (float(mine[0]),), "equal", mine == asked))
    orders = [np.random.default_rng(seed).permutation(float(TRIALS) + np.arange(TRIALS)) for seed in seeds]
    found = [reached(Asha(rungs(1, RESOURCE)), order) for order in orders]
    for k, (trials, *_) in enumerate(PRINTED[0]):
        what = f"s=0, rung {k}, trials in random order: some go on that a whole rung would have stopped"
        cells.append(at_least(what, trials, [row[k] for row in found], paper=str(trials)))
    return Found(cells)


reproduction = Reproduction(
    title="ASHA's rungs for nine trials and a resource of 9",
    paper="Li et al. 2020, arXiv:1810.05934",
    where="table 1",
    setting="same",
    measure=measure,
    seeds=(0, 1, 2),
    seconds=5,
)
