"""MiniLM with three of its six layers: alone, from the six-layer model's logits, and from its relations.

The teacher is MiniLM fine-tuned on product reviews. The students start as every second layer of MiniLM as published,
with a new head, and learn in full from the same reviews: their labels alone; labels and the teacher's logits (Hinton et
al. 2015); labels and the relations among the last layer's queries, keys and values (MiniLMv2, Wang et al. 2021).

``python -m experiments.distillation.shorter_minilm --out docs/results/shorter_minilm.jsonl`` trains all over three
seeds and records size, latency and score; ``python docs/distillation_tables.py`` puts them into docs/distillation.md.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ft_jax import models
from ft_jax.assets import MINILM
from ft_jax.models import Model
from ft_jax.training import Budget, EvaluationSpec, Experiment, OptimizerSpec, Result, Use, fit
from ft_jax.training.specs import Pretrained, Texts

from ..study import TUNED, after, beats, run, tell
from ..trained import Trained

LENGTH, LAYERS = 24, (1, 3, 5)
seeds = 3


@dataclasses.dataclass(frozen=True)
class SomeLayers:
    """A model of some of another's layers, see `ft_jax.models.with_layers`.

    Attributes:
      model: of the whole one.
      layers: their numbers.
    """

    model: Any
    layers: tuple[int, ...]

    def build(self, key: jax.Array | None) -> Model:
        """The model; without a key its shapes alone."""
        return models.with_layers(self.model.build(key), self.layers)


teacher = Experiment(
    name="distillation/shorter_minilm-teacher",
    model=Pretrained(MINILM, classes=2),
    data=Texts(("sentiment:amazon",), length=LENGTH),
    method=(Use("transfer.full"),),
    optimizer=OptimizerSpec(learning_rate=2e-4, schedule="linear", warmup=0.1, max_norm=1.0),
    budget=Budget(steps=60, batch_size=16),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
)

alone = dataclasses.replace(
    teacher,
    name="distillation/shorter_minilm-alone",
    model=SomeLayers(Pretrained(MINILM, classes=2), LAYERS),
    budget=Budget(steps=40, batch_size=16),
)

experiment = dataclasses.replace(
    alone,
    name="distillation/shorter_minilm",
    method=(Use("distillation.logits", params=Trained(teacher), temperature=2.0), Use("transfer.full")),
)

RELATIONS = "from the teacher's relations"
ALONE = "the same layers alone"
baselines = {
    ALONE: alone,
    RELATIONS: dataclasses.replace(
        alone,
        name="distillation/shorter_minilm-relations",
        method=(Use("distillation.relations", params=Trained(teacher), heads=12), Use("transfer.full")),
    ),
}


def claims(results):
    """Accuracy on held-out reviews."""
    what = "accuracy on reviews"
    return [
        beats(results, after, ALONE, 0.005, f"{what}, from the teacher's logits"),
        beats(results, after, ALONE, 0.005, f"{what}, from its relations", label=RELATIONS),
    ]


def latencies(several: Sequence[Model], repeats: int = 40) -> np.ndarray:
    """``[repeats, models]`` seconds for one sentence of 32 tokens, the models in turns."""
    batch = {"input_ids": np.arange(1, 33, dtype=np.int32)[None], "attention_mask": np.ones((1, 32), np.int32)}
    answers = [
        (
            jax.jit(lambda params, batch, apply=model.apply: apply(params, batch, None).logits),
            jax.device_put(model.params),
        )
        for model in several
    ]

    def once(answer, params):
        begin = time.perf_counter()
        jax.block_until_ready(answer(params, batch))
        return time.perf_counter() - begin

    for answer, params in answers:
        once(answer, params)
    return np.array([[once(answer, params) for answer, params in answers] for _ in range(repeats)])


def rows(results, whole: Result) -> list[dict[str, Any]]:
    """A row a model: parameters, latency beside the teacher's, accuracies by seed."""
    ways = {"MiniLM, fine-tuned": [whole], "from the teacher's logits": results[TUNED]}
    ways |= {name: results[name] for name in baselines}
    taken = latencies([whole.model, results[TUNED][0].model])
    ratio = taken[:, 1] / taken[:, 0]
    spread = [float(np.median(ratio)), float(np.quantile(ratio, 0.1)), float(np.quantile(ratio, 0.9))]
    return [
        {
            "model": name,
            "layers": found[0].model.config.layers,
            "parameters": found[0].model.parameters,
            "latency": [1.0] * 3 if found[0] is whole else spread,
            "accuracy": [after(one) for one in found],
        }
        for name, found in ways.items()
    ]


def main() -> None:
    """Trains, prints and records; exits non-zero where a claim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs go; finished ones are kept")
    parser.add_argument("--out", type=Path, help="a file of JSON lines to write")
    options = parser.parse_args()
    results, found = run("distillation/shorter_minilm", options.runs, seeds=options.seeds)
    whole = fit(teacher, run=Path(Trained.folder) / teacher.name, quiet=True)
    tell([*rows(results, whole), *(dataclasses.asdict(claim) for claim in found)], options.out)
    raise SystemExit(not all(claim.met for claim in found))


if __name__ == "__main__":
    main()
