"""What a model's batches may hold: classes, tokens and lengths, and labels that its head can be measured by."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ft_jax.core.weights import shape
from ft_jax.data.streams import unmoved
from ft_jax.outside import printable
from ft_jax.training.experiment import Experiment
from ft_jax.training.objective import outline_of, target_of
from ft_jax.training.stream import Batch, Task


def limits_of(model: Any, example: Batch, experiment: Experiment, task: str) -> dict[str, int]:
    """``vocabulary`` and ``positions`` of the model, ``classes`` of its head, ``several`` of one for several classes.

    Of a vision-language model its ``image_token`` too.

    Raises:
      ValueError: the batch is beyond them, or its labels don't fit the head.
    """
    config, limits = getattr(model, "config", None), {}
    for name in ("vocabulary", "positions", "image_token"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            limits[name] = value
    check_limits(example, limits, f"task {task!r}")
    labels = example.get("labels")
    if experiment.loss is not None or labels is None:
        return limits
    target = target_of(model, example)
    if target in ("classes", "several classes"):
        limits["classes" if target == "classes" else "several"] = shape(outline_of(model, example).unembedding)[-1]
    if target == "numbers":
        limits["numbers"] = 1
    return limits


UNSEEN = 8
"""Batches of a task that are looked at before it is taken for one without anything to learn from."""

MASKED = "every label is masked (negative) or of weight 0"


def carries(batch: Batch) -> bool:
    """Whether anything in a host batch carries loss, as `ft_jax.core.batches` counts it; True where it has no labels.

    Example:
      >>> carries({"labels": np.array([[-1, 3]])}), carries({"labels": np.array([-1, -1])}), carries({"x": np.ones(2)})
      (True, False, True)
    """
    own = {name: np.asarray(field) for name, field in batch.items() if not isinstance(field, Mapping)}
    if not own:
        return all(carries(part) for part in batch.values())
    flags = [own["weights"] > 0] if "weights" in own else []
    if "labels" in own and own["labels"].dtype.kind == "i":
        flags.append(own["labels"] >= 0)
    flags += [own[name] > 0 for name in ("attention_mask", "segment_ids") if name in own]
    if any(flag.shape != flags[0].shape for flag in flags):
        flags = [flag.reshape(len(flag), -1).any(axis=1) for flag in flags]
    return bool(np.logical_and.reduce(flags).any()) if flags else True


def check_carries(task: Task, batches: Sequence[Batch]) -> None:
    """Raises ValueError on a task in which nothing carries loss, as far as its first batches show.

    Args:
      task: whose source nobody reads from meanwhile; its place stays where it is.
      batches: of every shape that it has.
    """
    if not batches or any(carries(batch) for batch in batches):
        return
    with unmoved(task.train):
        more = list(itertools.islice((batch for batch in iter(lambda: next(task.train, None), None)), UNSEEN))
    if not any(carries(batch) for batch in more):
        raise ValueError(
            f"nothing in the first {len(more)} batches of task {printable(task.name)} carries loss: {MASKED}; correct "
            "the labels, or take a longer length if what is learned from was cut off"
        )


def check_limits(batch: Batch, limits: Mapping[str, int], where: str) -> None:
    """Raises ValueError on a label, token or length that the model doesn't have; XLA would clamp them silently."""
    labels, ids = batch.get("labels"), batch.get("input_ids")
    if labels is not None and "classes" in limits and np.max(labels) >= limits["classes"]:
        raise ValueError(
            f"{where} has label {int(np.max(labels))}, but the model's head has classes 0 to {limits['classes'] - 1}; "
            "correct the label or give the model more classes"
        )
    if labels is not None and "numbers" in limits and np.asarray(labels).dtype.kind == "i" and np.min(labels) < 0:
        raise ValueError(
            f"{where} has the whole number {int(np.min(labels))} as its label, and negative whole numbers don't count; "
            "make the labels of a regression floats"
        )
    if labels is not None and "several" in limits and not 0 <= np.min(labels) <= np.max(labels) <= 1:
        wrong = np.min(labels) if np.min(labels) < 0 else np.max(labels)
        raise ValueError(
            f"{where} has {wrong:.4g} among its labels, which are 0 to 1 for each of several classes; correct it, or "
            "take a regression head"
        )
    if ids is None:
        return
    if "image_token" in limits:
        # It may lie beyond the table: its places are taken by what an image gives.
        ids = np.where(np.asarray(ids) == limits["image_token"], 0, ids)
    if "vocabulary" in limits and not 0 <= np.min(ids) <= np.max(ids) < limits["vocabulary"]:
        wrong = int(np.min(ids)) if np.min(ids) < 0 else int(np.max(ids))
        raise ValueError(
            f"{where} has token {wrong}, but the model knows 0 to {limits['vocabulary'] - 1}; use the model's tokenizer"
        )
    if "positions" in limits and np.shape(ids)[-1] > limits["positions"]:
        raise ValueError(
            f"{where} has sequences of {np.shape(ids)[-1]} tokens, but the model takes {limits['positions']}; "
            "cut the sequences or take a model for longer ones"
        )
