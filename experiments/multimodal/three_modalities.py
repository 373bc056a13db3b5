"""A digit's image, its signal and its name typed with errors: one network of three modalities against each alone.

Images are scikit-learn's digits under noise. Signals are MNIST-1D's (Greydanus and Kobak 2024, arXiv:2011.14439; ``pip
install "ft_jax[mnist1d]"``), 40 numbers each. The name is spelled letter by letter, and every second letter is another
one. Of each digit image, signal and errors are drawn apart, so that what one modality leaves open another may tell.
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

from ..reproduce.mnist1d_table import signals
from ..study import TUNED, beats

seeds = 3
MODALITIES = ("image", "signal", "text")
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS, LONGEST, SAMPLES = 26, 5, 40
TYPOS, NOISE = 0.5, 0.35


def typed(digit: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """The letters of a digit's name, each another with a probability of `TYPOS`, and which of the places they fill."""
    name = np.array([ord(letter) - ord("a") for letter in NAMES[digit]])
    wrong = generator.random(len(name)) < TYPOS
    name = np.where(wrong, (name + generator.integers(1, LETTERS, len(name))) % LETTERS, name)
    short = LONGEST - len(name)
    ids = np.pad(name, (0, short), constant_values=LETTERS).astype(np.int32)
    return {"input_ids": ids, "attention_mask": np.pad(np.ones(len(name), np.int32), (0, short))}


@functools.cache
def by_digit(split: str) -> tuple[np.ndarray, ...]:
    """MNIST-1D's signals of each digit ``[examples, samples]``, of unit deviation over the training set."""
    made = signals()
    scale = made["train"]["signal"].std()
    return tuple(made[split]["signal"][made[split]["labels"] == digit] / scale for digit in range(10))


def collected(split: str, count: int, seed: int) -> data.Dataset:
    """So many digits, each with its three modalities."""
    digits, generator = data.load("digits", split), np.random.default_rng(seed)
    images, labels = np.asarray(digits.column("images")), np.asarray(digits.column("labels"))
    chosen = generator.integers(len(labels), size=count)
    noisy = images[chosen] + NOISE * generator.normal(size=(count, *images.shape[1:])).astype(np.float32)
    shown = [by_digit(split)[digit] for digit in labels[chosen]]
    return data.Dataset(
        {
            "image": [{"images": image} for image in noisy],
            "signal": [{"signals": some[generator.integers(len(some))]} for some in shown],
            "text": [typed(digit, generator) for digit in labels[chosen]],
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
            "signal": models.SignalConfig(SAMPLES, patch=4, **shape),
            "text": models.EncoderConfig(vocabulary=LETTERS + 1, positions=LONGEST, **shape),
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
    budget=Budget(steps=1000, batch_size=64),
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
