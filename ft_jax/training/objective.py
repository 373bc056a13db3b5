"""The loss that fits a model's head and the labels of its data, or a sentence on why none does."""

import functools
from typing import Any

import jax
import numpy as np

from ft_jax.core import Loss, supervised
from ft_jax.core.targets import binary_cross_entropy, squared_error
from ft_jax.core.weights import shape
from ft_jax.training.paired import PAIRED, similarity_error, told_apart
from ft_jax.training.stream import Batch

NUMBERS = ("regression", "value", "reward")
"""Heads whose outputs are numbers and not classes, see `ft_jax.models.with_head`."""

LOSSES = {
    "classes": supervised,
    "numbers": squared_error,
    "several classes": binary_cross_entropy,
    "pairs": told_apart,
    "scores": similarity_error,
}

PROBLEMS = {"classes": None, "numbers": "regression", "several classes": "multi_label_classification"}
"""What `ft_jax.models.Model.problem_type` is where a head was trained on such labels."""


def objective_of(model: Any, example: Batch) -> Loss:
    """The loss for a model's head and a batch's labels, see `target_of`; cross-entropy where there are no labels."""
    return LOSSES[target_of(model, example) or "classes"](model.apply)


def outline_of(model: Any, example: Batch) -> Any:
    """The shapes of what a model answers to a batch, which jax remembers."""
    try:
        return _answered.eval_shape(model.apply, model.params, dict(example))
    except TypeError:  # a forward pass without a hash, or a field that is no array
        return jax.eval_shape(lambda params: model.apply(params, example, None), model.params)


@functools.partial(jax.jit, static_argnums=0)
def _answered(apply, params, example):
    return apply(params, example, None)


def target_of(model: Any, example: Batch) -> str | None:
    """What the labels of a batch are to a model's head: a key of `LOSSES`, or None where it has no labels.

    | labels | head | what they are |
    | --- | --- | --- |
    | whole numbers, one an example or a token | of several outputs | classes: cross-entropy |
    | numbers, one an example or a token | of one output, or a regression's | numbers: squared error |
    | floats, one for each output | a regression's | numbers: squared error |
    | floats from 0 to 1, one for each output | of classes | several classes: binary cross-entropy |
    | floats, one a pair of examples | an embedding's | scores: squared error of the cosine |
    | none, of pairs | an embedding's | pairs: each told from the others of the batch |

    Raises:
      ValueError: the labels are nothing that the head can be measured by.
    """
    labels = example.get("labels")
    if PAIRED in example and "input_ids" in example[PAIRED]:
        return _of_pairs(model, labels)
    if labels is None:
        return None
    labels = np.asarray(labels)
    outputs = outline_of(model, example)
    if outputs.unembedding is None:
        raise ValueError("the model has no head for labels; give it one, such as models.with_classifier(...)")
    count, positions = shape(outputs.unembedding)[-1], outputs.hidden.shape[:-1]
    whole = np.issubdtype(labels.dtype, np.integer)
    regression = getattr(model.apply, "kind", None) in NUMBERS
    if labels.shape == positions and (regression or count == 1):
        return _one_number(labels, count, whole, regression)
    if labels.shape == positions and whole:
        return "classes"
    if labels.shape == positions:
        raise ValueError(
            f"labels are numbers of type {labels.dtype} and the head has {count} outputs; give whole numbers for "
            "classes, or a head of one output for a regression, such as models.with_head(model, 'regression', ...)"
        )
    if labels.shape == (*positions, count):
        return _one_for_each_output(labels, count, whole, regression)
    if labels.ndim == len(positions) + 1 and labels.shape[:-1] == positions:
        raise ValueError(
            f"labels are {labels.shape[-1]} numbers an example and the head has {count} outputs; make them equal"
        )
    raise ValueError(
        f"labels have shape {labels.shape}, but the model predicts {positions}; "
        "give one label an example to a classifier and one a token to a language model"
    )


def _of_pairs(model, labels) -> str | None:
    if getattr(model.apply, "kind", None) != "embedding":
        # A tower of its own, such as multimodal.clip's, reads the other side.
        return None if labels is None else "classes"
    if labels is None:
        return "pairs"
    if np.ndim(labels) != 1 or not np.issubdtype(np.asarray(labels).dtype, np.floating):
        raise ValueError(f"labels of pairs are scores, one float a pair, and these are {np.shape(labels)}; give floats")
    return "scores"


def _one_number(labels, count, whole, regression) -> str:
    if count != 1:
        raise ValueError(f"labels are one number an example and the regression has {count} outputs; make them equal")
    if whole and not regression and np.isin(labels, (0, 1)).all():
        raise ValueError(
            "labels are 0 and 1 and the head has one output, which is no class; give it 2 outputs for classes, or a "
            "regression head for numbers"
        )
    return "numbers"


def _one_for_each_output(labels, count, whole, regression) -> str:
    if regression or count == 1:
        return "numbers"
    if not whole and labels.min() >= 0 and labels.max() <= 1:
        return "several classes"
    found = "whole numbers" if whole else f"from {labels.min():.4g} to {labels.max():.4g}"
    raise ValueError(
        f"labels are {count} numbers an example, {found}, and the head is one of classes; give floats from 0 to 1 for "
        "several classes an example, or a regression head"
    )
