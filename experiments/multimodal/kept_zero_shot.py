"""Fine-tuning a CLIP that keeps what it could: L2-SP and WiSE-FT against plain fine-tuning.

A CLIP of white digits on black is trained, with a head made of captions, to tell the digit on the left of 200 scenes in
dim light. L2-SP (Li et al. 2018, arXiv:1802.01483) holds it near its start, WiSE-FT (Wortsman et al. 2021,
arXiv:2109.01903) takes the middle between before and after.
"""

import dataclasses

import jax
import numpy as np

from ft_jax.core import supervised
from ft_jax.ensemble import merging
from ft_jax.multimodal import zero_shot
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec
from ft_jax.transfer import l2_sp

from ..study import TUNED, beats
from ..trained import Trained
from .scene_captions import ALL
from .scene_captions import baselines as captioned
from .scenes import CONTENTS, RECALLS, Scenes, dimmed, drawn, features, left_digit, prompts, told_left

seeds = 3
PLAIN, MIDDLE, BEFORE = "plain fine-tuning", "WiSE-FT, 0.5", "before"
FEW = 10
"""Every so many of the captions that begin with a digit are prompts of it."""

experiment = Experiment(
    name="multimodal/kept_zero_shot",
    model=Trained(captioned[ALL]),
    data=Scenes(count=200, dim=True, left=True),
    method=(l2_sp(alpha=0.1),),
    loss=lambda model: supervised(zero_shot(model.apply, prompts()[:, ::FEW])),
    optimizer=OptimizerSpec("adam", learning_rate=1e-3, schedule="linear", warmup=0.1),
    budget=Budget(steps=100, batch_size=50),
    evaluation=EvaluationSpec(metric="accuracy", mode="max", on="dim scenes"),
    log_every=50,
)

baselines = {PLAIN: dataclasses.replace(experiment, name="multimodal/kept_zero_shot-plain", method=())}


def measured(model, params) -> dict[str, float]:
    """Accuracy of the left digit in dim light, and image to text recall@1 on the scenes it came from."""
    test = drawn(CONTENTS, 7, "digits", "test")
    labels = np.asarray(test.column("labels"))
    told = np.asarray(told_left(model.apply, params, np.asarray(dimmed(test).column("images")), FEW))
    batch = {name: np.asarray(test.column(name)) for name in ("images", "input_ids", "labels")}
    found = jax.device_get(features(model.apply, params, batch))
    return {
        "accuracy, dim scenes": float(np.mean(told == left_digit(labels))),
        "recall@1, scenes": RECALLS["image_to_text"].score(found, batch),
    }


def ways(results):
    """Of each way the measures by seed."""
    plain = results[PLAIN]
    starts = [run.model.params for run in plain]
    middle = [
        merging.merge_trees(merging.uniform(), [start, jax.device_get(run.params)], weights=(0.5, 0.5))
        for start, run in zip(starts, plain, strict=True)
    ]
    trees = {
        BEFORE: starts,
        PLAIN: [run.params for run in plain],
        "L2-SP": [run.params for run in results[TUNED]],
        MIDDLE: middle,
    }
    return {way: [measured(plain[0].model, tree) for tree in found] for way, found in trees.items()}


def rows(results):
    """The table."""
    for way, found in ways(results).items():
        for measure in found[0]:
            yield {"way": way, "measure": measure, "values": [one[measure] for one in found]}


def claims(results):
    """What is kept, and what it costs."""
    found = ways(results)
    kept, new = (lambda one: one["recall@1, scenes"]), (lambda one: one["accuracy, dim scenes"])
    return [
        beats(found, kept, PLAIN, 0.02, "recall@1 on the scenes it came from with L2-SP", label="L2-SP"),
        beats(found, kept, PLAIN, 0.02, "recall@1 on the scenes it came from with WiSE-FT", label=MIDDLE),
        beats(found, new, BEFORE, 0.1, "accuracy in dim light with WiSE-FT", label=MIDDLE),
    ]
