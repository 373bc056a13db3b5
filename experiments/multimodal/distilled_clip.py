"""A small CLIP from a large one's similarities and 1,000 captioned scenes, against the same from the captions alone.

The student's softmax over the texts of a batch is drawn to the teacher's (the relations of Yang et al. 2023, "CLIP-KD",
arXiv:2307.12732, from images to texts), beside the contrastive loss.
"""

import dataclasses

from ft_jax import models
from ft_jax.multimodal import temperature
from ft_jax.training import Use

from ..study import after, beats
from ..trained import Trained
from .scene_captions import ALL, NOTHING
from .scene_captions import baselines as captioned
from .scenes import CLIP, RECALLS, TEXT, VISION, Clip

seeds = 3
ALONE = "the captions alone"
SMALL = models.DualConfig(
    dataclasses.replace(VISION, width=32, layers=1, mlp_width=64),
    dataclasses.replace(TEXT, width=32, mlp_width=64),
    width=CLIP.width,
)

experiment = dataclasses.replace(
    captioned[NOTHING],
    name="multimodal/distilled_clip",
    model=Clip(SMALL),
    method=(Use("distillation.logits", params=Trained(captioned[ALL]), temperature=1.0, weight=2.0), temperature()),
)

baselines = {ALONE: dataclasses.replace(experiment, name="multimodal/distilled_clip-alone", method=(temperature(),))}


def rows(results):
    """The table: recall@1 both ways."""
    for label, runs in results.items():
        for name in RECALLS:
            way = ALONE if label == ALONE else "distilled"
            yield {"way": way, "measure": name, "values": [after(run, name) for run in runs]}


def claims(results):
    """What the teacher brings."""
    return [beats(results, lambda run: after(run, "image_to_text"), ALONE, 0.03, "the student's recall@1")]
