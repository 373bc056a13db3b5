"""What a model's batches may hold: classes, tokens and lengths, and labels that its head can be measured by."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ft_jax.core.weights import shape
from ft_jax.training.experiment import Experiment
from ft_jax.training.stream import Batch


def limits_of(model: Any, example: Batch, experiment: Experiment, task: str) -> dict[str, int]:
    """``classes`` of the head, ``vocabulary`` and ``positions`` of the model, as far as they can be known."""
    config, limits = getattr(model, "config", None), {}
    for name in ("vocabulary", "positions"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            limits[name] = value
    check_limits(example, limits, f"task {task!r}")
    labels = example.get("labels")
    if experiment.loss is None and labels is not None and np.issubdtype(np.asarray(labels).dtype, np.integer):
        outputs = jax.eval_shape(lambda params: model.apply(params, example, None), model.params)
        if outputs.unembedding is None:
            raise ValueError("the model has no head for labels; give it one, such as models.with_classifier(...)")
        limits["classes"] = shape(outputs.unembedding)[-1]
        if np.shape(labels) != outputs.hidden.shape[:-1]:
            raise ValueError(
                f"labels have shape {np.shape(labels)}, but the model predicts {outputs.hidden.shape[:-1]}; "
                "give one label an example to a classifier and one a token to a language model"
            )
    return limits


def check_limits(batch: Batch, limits: Mapping[str, int], where: str) -> None:
    """Raises ValueError on a label, token or length that the model doesn't have; XLA would clamp them silently."""
    labels, ids = batch.get("labels"), batch.get("input_ids")
    if labels is not None and "classes" in limits and np.max(labels) >= limits["classes"]:
        raise ValueError(
            f"{where} has label {int(np.max(labels))}, but the model's head has classes 0 to {limits['classes'] - 1}; "
            "correct the label or give the model more classes"
        )
    if ids is None:
        return
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
