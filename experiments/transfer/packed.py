"""QLoRA's loss curve is that of LoRA on a bfloat16 base, within the noise of seeds.

Dettmers et al. 2023, arXiv:2305.14314, section 4. The same adapters on MiniLM, whose projections are kept as 4-bit
NormalFloats with doubly quantised scales, or as they are; both compute in bfloat16, on the same batches for each seed.
The noise is the standard deviation of the bfloat16 curves between the seeds, its square averaged over the curve: at one
place three seeds tell little.
"""

import dataclasses

import numpy as np

from ft_jax.assets import MINILM
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Use
from ft_jax.training.report.data import read_run
from ft_jax.training.specs import Pretrained, Texts

from ..study import TUNED, Claim, after

seeds = 3

WINDOW = 20
LORA = Use("transfer.lora", rank=8, alpha=16.0, also=("*/head/*",))

experiment = Experiment(
    name="transfer/packed",
    model=Pretrained(MINILM, classes=2, dtype="bfloat16"),
    data=Texts(("sentiment:movies",), length=32),
    method=(LORA, Use("transfer.quantize")),
    optimizer=OptimizerSpec(learning_rate=1e-3, schedule="linear", warmup=0.1),
    budget=Budget(steps=100, batch_size=16),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
    log_every=1,
)

baselines = {"bfloat16": dataclasses.replace(experiment, name="transfer/packed-bfloat16", method=(LORA,))}


def curves(results):
    """``[seeds, windows]`` mean training losses."""
    losses = np.array([[line["loss"] for line in read_run(one.run).train] for one in results])
    return losses.reshape(len(losses), -1, WINDOW).mean(axis=2)


def claims(results):
    """The curve, window by window, and held-out reviews."""
    ours, theirs = (curves(results[label]) for label in (TUNED, "bfloat16"))
    apart = np.abs(ours.mean(axis=0) - theirs.mean(axis=0)).max()
    noise = np.sqrt(theirs.var(axis=0, ddof=1).mean())
    scores = {label: np.array([after(one) for one in results[label]]) for label in (TUNED, "bfloat16")}
    less = float(scores["bfloat16"].mean() - scores[TUNED].mean())
    return [
        Claim(
            f"mean losses of {WINDOW} steps each differ by at most {apart:.3f}, {apart / noise:.2f} of "
            f"the standard deviation between {len(ours)} seeds, at most 1 was claimed",
            bool(apart <= noise),
        ),
        Claim(
            f"accuracy on reviews {scores[TUNED].mean():.3f} against {scores['bfloat16'].mean():.3f} in bfloat16: "
            f"lower by {less:.3f}, at most 0.02 was claimed",
            less <= 0.02,
        ),
    ]
