"""A digit's image, its telephone tone and a sentence that says it: one network of three modalities against each alone.

Images are scikit-learn's digits under noise. Tones are those of a telephone's keys (ITU-T Q.23: two frequencies for
each digit) under noise, 128 samples at 8 kHz at any phase. A sentence names the digit and is wrong in one of seven.
Everything is measured clean, with each modality corrupted and all by half, and with each missing.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from ft_jax import data, models, multimodal
from ft_jax.multimodal.evaluation import corrupted, without
from ft_jax.training import Budget, EvaluationSpec, Experiment, Feed, OptimizerSpec, Stream, Task
from ft_jax.training.specs import share

from ..study import TUNED, beats

seeds = 3
MODALITIES = ("image", "tone", "text")
WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("it", "is", "a", "the", "number", "reads", "here", "stands"),
)
SENTENCES = tuple(
    tuple(WORDS.index(word) for word in text.split())
    for text in ("it is a", "the number is", "it reads a", "here stands a")
)
ROWS, COLUMNS = (697.0, 770.0, 852.0, 941.0), (1209.0, 1336.0, 1477.0)
KEYS = "123456789*0#"
RATE, SAMPLES = 8000, 128
WRONG, NOISE, TONE_NOISE = 1 / 7, 0.35, 1.5


def tone(digit: int, generator: np.random.Generator) -> np.ndarray:
    """The two frequencies of a key at any phase, under noise, ``[samples]``."""
    place = KEYS.index(str(digit))
    time = 2 * np.pi * np.arange(SAMPLES) / RATE
    waves = [np.sin(f * time + generator.uniform(0, 2 * np.pi)) for f in (ROWS[place // 3], COLUMNS[place % 3])]
    return (sum(waves) + TONE_NOISE * generator.normal(size=SAMPLES)).astype(np.float32)


def sentence(digit: int, generator: np.random.Generator) -> np.ndarray:
    """Ids of four words, the last of them a digit that is right in six of seven."""
    said = digit if generator.random() >= WRONG else (digit + generator.integers(1, 10)) % 10
    return np.array([*SENTENCES[generator.integers(len(SENTENCES))], said], np.int32)


def collected(split: str, count: int, seed: int) -> data.Dataset:
    """So many digits, each with its three modalities."""
    digits, generator = data.load("digits", split), np.random.default_rng(seed)
    images, labels = np.asarray(digits.column("images")), np.asarray(digits.column("labels"))
    chosen = generator.integers(len(labels), size=count)
    noisy = images[chosen] + NOISE * generator.normal(size=(count, *images.shape[1:])).astype(np.float32)
    return data.Dataset(
        {
            "image": [{"images": image} for image in noisy],
            "tone": [{"signals": tone(digit, generator)} for digit in labels[chosen]],
            "text": [{"input_ids": sentence(digit, generator)} for digit in labels[chosen]],
            "labels": labels[chosen],
        },
        digits.classes,
    )


@dataclasses.dataclass(frozen=True)
class Three:
    """Digits in these modalities."""

    modalities: tuple[str, ...] = MODALITIES

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        train, test = collected("train", 6000, feed.seed), collected("test", 500, 1000)
        train, test = (part.select(*self.modalities, "labels") for part in (train, test))
        source = data.batches(train, feed.batch_size, seed=feed.seed, **share(feed))
        return (Task("digits", source, {"digits": data.evaluation_batches(test, 250)}, len(train)),)


@dataclasses.dataclass(frozen=True)
class Network:
    """An encoder for each modality and a gate over them."""

    modalities: tuple[str, ...] = MODALITIES

    def build(self, key: jax.Array | None):
        """The model; without a key its shapes alone."""
        keys = [None] * 4 if key is None else jax.random.split(key, 4)
        shape = {"width": 32, "layers": 1, "heads": 4, "mlp_width": 64}
        configs = {
            "image": models.ViTConfig((8, 8, 1), patch=4, classes=None, **shape),
            "tone": models.SignalConfig(SAMPLES, patch=16, **shape),
            "text": models.EncoderConfig(vocabulary=len(WORDS), positions=8, **shape),
        }
        encoders = {name: models.build(configs[name], own) for name, own in zip(MODALITIES, keys, strict=False)}
        chosen = {name: encoders[name] for name in self.modalities}
        return multimodal.model(chosen, "gate", 10, width=32, key=keys[3])


experiment = Experiment(
    name="multimodal/three_modalities",
    model=Network(),
    data=Three(),
    method=(multimodal.modality_dropout(MODALITIES, 0.3),),
    optimizer=OptimizerSpec("adam", learning_rate=3e-3, schedule="linear", warmup=0.1),
    budget=Budget(steps=400, batch_size=64),
    evaluation=EvaluationSpec(metric="accuracy", mode="max"),
    log_every=100,
)

baselines = {
    f"{name} alone": dataclasses.replace(
        experiment,
        name=f"multimodal/three_modalities-{name}",
        model=Network((name,)),
        data=Three((name,)),
        method=(),
    )
    for name in MODALITIES
}


def conditions(modalities):
    """By name, what becomes of a batch."""
    made = {"clean": lambda batch: batch}
    for name in modalities:
        made[f"{name} corrupted"] = lambda batch, name=name: corrupted(batch, name, seed=1)
    if len(modalities) > 1:
        made |= {f"{name} missing": lambda batch, name=name: without(batch, name) for name in modalities}

    def all_by_half(batch):
        for name in modalities:
            batch = corrupted(batch, name, seed=2, amount=0.5)
        return batch

    return {**made, "all corrupted by half": all_by_half}


@functools.partial(jax.jit, static_argnums=0)
def answer(apply, params, batch):
    """Logits."""
    return apply(params, batch).logits


def accuracies(result, modalities):
    """Test accuracy under each condition."""
    (batch,) = data.evaluation_batches(collected("test", 500, 1000).select(*modalities, "labels"), 500)

    def accuracy(batch):
        parts = {name: part for name, part in batch.items() if name in modalities}
        return float(np.mean(np.argmax(answer(result.model.apply, result.params, parts), axis=1) == batch["labels"]))

    return {name: accuracy(change(batch)) for name, change in conditions(modalities).items()}


def ways(results):
    """Of the fused network and of each modality alone the accuracies by seed."""
    own = {TUNED: MODALITIES, **{f"{name} alone": (name,) for name in MODALITIES}}
    return {label: [accuracies(run, own[label]) for run in runs] for label, runs in results.items()}


def rows(results):
    """The table: a line a condition, a column a network."""
    for label, found in ways(results).items():
        for condition in found[0]:
            measure = "fused" if label == TUNED else label
            yield {"way": condition, "measure": measure, "values": [one[condition] for one in found]}


def claims(results):
    """Fused against the best single modality: clean, all corrupted, and where one is corrupted or missing."""
    found = ways(results)
    score = lambda label, condition: [one[condition] for one in found[label]]  # noqa: E731

    def over(condition, margin, others=MODALITIES, theirs=None):
        compared = {f"{name} alone": score(f"{name} alone", theirs or condition) for name in others}
        best = max(compared, key=lambda label: np.mean(compared[label]))
        held = {TUNED: score(TUNED, condition), best: compared[best]}
        return beats(held, float, best, margin, f"{condition}: accuracy of the fused network")

    said = [over("clean", 0.03), over("all corrupted by half", 0.05)]
    for name in MODALITIES:
        rest = tuple(other for other in MODALITIES if other != name)
        said += [over(f"{name} corrupted", 0.1, (name,)), over(f"{name} missing", 0.02, rest, "clean")]
    return said
