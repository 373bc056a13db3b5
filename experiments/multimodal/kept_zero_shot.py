"""Fine-tuning a CLIP that keeps what it could: L2-SP and WiSE-FT against plain fine-tuning.

A CLIP of white digits on black is trained, with a head made of captions, to tell the digit on the left of 2,000 scenes
in dim light. L2-SP (Li et al. 2018, arXiv:1802.01483) holds it near its start, WiSE-FT (Wortsman et al. 2021,
arXiv:2109.01903) mixes before and after. L2-SP's strength and the mixture's share are those with the largest sum of
both measures on 400 other scenes of training digits; what is told is of the test digits.
"""

import dataclasses

import jax
import numpy as np

from ft_jax import data
from ft_jax.core import supervised
from ft_jax.ensemble import merging
from ft_jax.multimodal import zero_shot
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec
from ft_jax.transfer import l2_sp

from ..study import TUNED, beats, best_of
from ..trained import Trained
from .scene_captions import ALL
from .scene_captions import baselines as captioned
from .scenes import CONTENTS, RECALLS, Scenes, dimmed, drawn, features, left_digit, prompts, told_left

seeds = 3
PLAIN, HELD, MIXED, BEFORE = "plain fine-tuning", "L2-SP", "WiSE-FT", "before"
FEW = 10
"""Every so many of the captions that begin with a digit are prompts of it."""

STRENGTHS = (0.1, 1.0, 10.0)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of L2-SP, and of what was before in the mixture: those that are tried."""

experiment = Experiment(
    name="multimodal/kept_zero_shot",
    model=Trained(captioned[ALL]),
    data=Scenes(count=2000, dim=True, left=True),
    method=(l2_sp(alpha=STRENGTHS[0]),),
    loss=lambda model: supervised(zero_shot(model.apply, prompts()[:, ::FEW])),
    optimizer=OptimizerSpec("adam", learning_rate=1e-3, schedule="linear", warmup=0.1),
    budget=Budget(steps=400, batch_size=50),
    evaluation=EvaluationSpec(metric="accuracy", mode="max", on="dim scenes"),
    log_every=50,
)

baselines = {PLAIN: dataclasses.replace(experiment, name="multimodal/kept_zero_shot-plain", method=())} | {
    f"{HELD}, {strength:g}": dataclasses.replace(
        experiment, name=f"multimodal/kept_zero_shot-{strength:g}", method=(l2_sp(alpha=strength),)
    )
    for strength in STRENGTHS[1:]
}


def measured(model, params, scenes: data.Dataset) -> dict[str, float]:
    """Accuracy of the left digit in dim light, and image to text recall@1 on the scenes it came from."""
    labels = np.asarray(scenes.column("labels"))
    told = np.asarray(told_left(model.apply, params, np.asarray(dimmed(scenes).column("images")), FEW))
    batch = {name: np.asarray(scenes.column(name)) for name in ("images", "input_ids", "labels")}
    found = jax.device_get(features(model.apply, params, batch))
    return {
        "accuracy, dim scenes": float(np.mean(told == left_digit(labels))),
        "recall@1, scenes": RECALLS["image_to_text"].score(found, batch),
    }


def ways(results):
    """Of each way, its strength or share in its name, the measures by seed."""
    plain = results[PLAIN]
    model, starts = plain[0].model, [run.model.params for run in plain]
    held = {strength: results[f"{HELD}, {strength:g}"] for strength in STRENGTHS[1:]}
    held = {STRENGTHS[0]: results[TUNED], **held}
    held = {strength: [run.params for run in runs] for strength, runs in held.items()}

    def mixed(share):
        return [
            merging.merge_trees(merging.uniform(), [start, jax.device_get(run.params)], weights=(share, 1.0 - share))
            for start, run in zip(starts, plain, strict=True)
        ]

    aside = drawn(CONTENTS, 99)

    def both(trees):
        return float(np.mean([sum(measured(model, tree, aside).values()) for tree in trees]))

    strength = best_of(STRENGTHS, lambda strength: both(held[strength]))
    share = best_of(SHARES, lambda share: both(mixed(share)))
    trees = {
        BEFORE: starts,
        PLAIN: [run.params for run in plain],
        f"{HELD}, {strength:g}": held[strength],
        f"{MIXED}, {share:g} of before": mixed(share),
    }
    test = drawn(CONTENTS, 7, "digits", "test")
    return {way: [measured(model, tree, test) for tree in found] for way, found in trees.items()}


def rows(results):
    """The table."""
    for way, found in ways(results).items():
        for measure in found[0]:
            yield {"way": way, "measure": measure, "values": [one[measure] for one in found]}


def claims(results):
    """What is kept, and what it costs."""
    found = ways(results)
    held, mixed = (next(way for way in found if way.startswith(name)) for name in (HELD, MIXED))
    kept, new = (lambda one: one["recall@1, scenes"]), (lambda one: one["accuracy, dim scenes"])
    return [
        beats(found, kept, PLAIN, 0.02, "recall@1 on the scenes it came from with L2-SP", label=held),
        beats(found, kept, PLAIN, 0.02, "recall@1 on the scenes it came from with WiSE-FT", label=mixed),
        beats(found, new, BEFORE, 0.1, "accuracy in dim light with WiSE-FT", label=mixed),
    ]
