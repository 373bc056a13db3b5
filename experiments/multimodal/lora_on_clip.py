"""LoRA on a CLIP: one trained on white digits on black learns scenes in dim light from 2,000 with captions.

Rank 4 on both towers against training all of it; what is left of retrieval among the scenes that it came from.
"""

import dataclasses

from ft_jax.multimodal import pairs, temperature
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec
from ft_jax.transfer import lora

from ..study import TUNED, beats
from ..trained import Trained
from .scene_captions import ALL
from .scene_captions import baselines as captioned
from .scenes import RECALLS, Scenes, both_features

seeds = 3
FULL = "all parameters"
BEFORE = "before"

experiment = Experiment(
    name="multimodal/lora_on_clip",
    model=Trained(captioned[ALL]),
    data=Scenes(count=2000, dim=True),
    method=(temperature(), lora(rank=4)),
    loss=lambda model: pairs(model.apply),
    predict=both_features,
    metrics=RECALLS,
    optimizer=OptimizerSpec("adam", learning_rate=5e-3, schedule="linear", warmup=0.1),
    budget=Budget(steps=400, batch_size=100),
    evaluation=EvaluationSpec(metric="image_to_text", mode="max", on="dim scenes"),
    log_every=50,
)

baselines = {
    FULL: dataclasses.replace(
        experiment,
        name="multimodal/lora_on_clip-full",
        method=(temperature(),),
        optimizer=dataclasses.replace(experiment.optimizer, learning_rate=1e-3),
    )
}


def recall(where, phase="after"):
    """``result -> image to text recall@1`` on an evaluation set."""
    return lambda result: float(result.scores[phase][where]["image_to_text"])


def rows(results):
    """The table: recall@1 in dim light and on what was known, and the share of parameters that learn."""
    ways = {"before": ("before", results[TUNED]), "LoRA, rank 4": ("after", results[TUNED])}
    ways[FULL] = ("after", results[FULL])
    for way, (phase, runs) in ways.items():
        for where in ("dim scenes", "scenes"):
            yield {"way": way, "measure": f"recall@1, {where}", "values": [recall(where, phase)(run) for run in runs]}


def claims(results):
    """LoRA learns the domain."""
    before = {**results, BEFORE: [_as_before(run) for run in results[TUNED]]}
    new = recall("dim scenes")
    return [
        beats(before, new, BEFORE, 0.1, "recall@1 in dim light with LoRA"),
        beats(results, recall("scenes"), FULL, 0.0, "recall@1 on the scenes it came from with LoRA"),
    ]


def _as_before(result):
    """A result whose scores after training are those before it."""
    return dataclasses.replace(result, scores={**result.scores, "after": result.scores["before"]})
