"""Finding the caption of a scene, and the scene of a caption: LiT against training both towers, from few captions.

A CLIP learns from 1,000 scenes with captions. Its image tower starts from one that was trained on 8,000 scenes to name
their contents without words, and stays (LiT, Zhai et al. 2021, arXiv:2111.07991) or learns on; or it starts from
nothing, there and with captions to all 8,000. Zero-shot: the digit on the left, by a head made of captions.
"""

import dataclasses

import numpy as np

from ft_jax.multimodal import lit, pairs, temperature
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec
from ft_jax.training.specs import Untrained

from ..study import TUNED, after, beats
from ..trained import Trained
from .scenes import CONTENTS, RECALLS, VISION, Clip, Scenes, both_features, drawn, left_digit, told_left

seeds = 3
NOTHING = "from nothing"
BOTH = "both towers"
ALL = "from nothing, all captions"

namer = Experiment(
    name="multimodal/scene_captions-namer",
    model=Untrained(dataclasses.replace(VISION, classes=CONTENTS)),
    data=Scenes(),
    optimizer=OptimizerSpec("adam", learning_rate=3e-3, schedule="linear", warmup=0.1),
    budget=Budget(steps=1500, batch_size=128),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
    log_every=100,
)

experiment = Experiment(
    name="multimodal/scene_captions",
    model=Clip(vision=Trained(namer)),
    data=Scenes(count=1000),
    method=(temperature(), lit("model/vision/*")),
    loss=lambda model: pairs(model.apply),
    predict=both_features,
    metrics=RECALLS,
    optimizer=OptimizerSpec("adam", learning_rate=2e-3, schedule="linear", warmup=0.1),
    budget=Budget(steps=400, batch_size=128),
    evaluation=EvaluationSpec(metric="image_to_text", mode="max"),
    log_every=100,
)

baselines = {
    BOTH: dataclasses.replace(experiment, name="multimodal/scene_captions-both", method=(temperature(),)),
    NOTHING: dataclasses.replace(
        experiment, name="multimodal/scene_captions-nothing", method=(temperature(),), model=Clip()
    ),
    ALL: dataclasses.replace(
        experiment,
        name="multimodal/scene_captions-all",
        method=(temperature(),),
        model=Clip(),
        data=Scenes(),
        budget=Budget(steps=1200, batch_size=128),
    ),
}


def zero_shot_accuracy(result) -> float:
    """Of the digit on the left of every scene of the test set."""
    test = drawn(CONTENTS, 7, "digits", "test")
    told = told_left(result.model.apply, result.params, np.asarray(test.column("images")))
    return float(np.mean(np.asarray(told) == left_digit(np.asarray(test.column("labels")))))


def rows(results):
    """The table: of each way its recalls and zero-shot accuracy, by seed."""
    for label, runs in results.items():
        for measure, of in (
            *((name, lambda result, name=name: after(result, name)) for name in RECALLS),
            ("zero_shot", zero_shot_accuracy),
        ):
            yield {"way": "LiT" if label == TUNED else label, "measure": measure, "values": [of(run) for run in runs]}


def claims(results):
    """What LiT and a tower that names bring."""
    recall = lambda result: after(result, "image_to_text")  # noqa: E731
    return [
        beats(results, recall, BOTH, 0.0, "LiT's image to text recall@1"),
        beats(results, recall, NOTHING, 0.2, "LiT's image to text recall@1"),
        beats(results, recall, NOTHING, 0.1, "both towers' image to text recall@1", label=BOTH),
        beats(results, zero_shot_accuracy, NOTHING, 0.1, "LiT's zero-shot accuracy of the left digit"),
    ]
