"""Temperature and vector scaling."""

import dataclasses

import numpy as np

from ft_jax.ensemble.calibration.softmax import checked, log_softmax, minimise, negative_log_likelihood


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Logits scaled and shifted before the softmax.

    Attributes:
      scale: ``[classes]``, or one number, 1 over the temperature.
      bias: ``[classes]``, or 0.
    """

    scale: np.ndarray
    bias: np.ndarray

    @property
    def temperature(self) -> float:
        """1 over the scale; of vector scaling, over its mean."""
        return float(1 / np.mean(self.scale))

    def __call__(self, logits) -> np.ndarray:
        """Log-probabilities ``log_softmax(scale · logits + bias)``."""
        return log_softmax(np.asarray(logits, np.float64) * self.scale + self.bias)


def temperature(logits, labels) -> Scaling:
    """One temperature for all logits, under which held-out labels are likeliest (Guo et al. 2017, arXiv:1706.04599).

    ``min_t Σ_i -log softmax(logits_i / t)[label_i]``, convex in ``1 / t``; the order of the classes stays.

    Args:
      logits: ``[rows, classes]`` or ``[rows, time, vocabulary]``, of examples that the model was not trained on; fused
        log-probabilities are logits too.
      labels: ``[rows]`` or ``[rows, time]``; negative ones don't count.

    Raises:
      ValueError: shapes that don't fit or no labelled example.

    Example:
      >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
      >>> scaling = temperature(logits, np.array([0, 0, 1, 1]))
      >>> round(scaling.temperature, 2), round(float(np.exp(scaling(logits))[0, 0]), 2)
      (3.64, 0.75)
    """
    logits, labels = checked(logits, labels, "temperature scaling")

    def loss(log_scale):
        scale = np.exp(log_scale[0])
        value, gradient = negative_log_likelihood(scale * logits, labels)
        return value, np.array([np.sum(gradient * logits) * scale])

    # Perfect predictions have no finite temperature; 1/1000 of the logits' own is as sharp as float32 tells apart.
    found = float(np.exp(np.clip(minimise(loss, np.zeros(1))[0], -np.log(1000), np.log(1000))))
    return Scaling(np.float64(found), np.float64(0))


def vector(logits, labels, *, bias: bool = True, l2: float = 1e-6) -> Scaling:
    """A scale and a bias for each class (Guo et al. 2017, arXiv:1706.04599, vector scaling).

    Args:
      logits: ``[rows, classes]`` of examples that the model was not trained on.
      labels: ``[rows]``; negative ones don't count.
      bias: off, scales alone, as torch-uncertainty's.
      l2: pulls scales to 1 and biases to 0, for classes that hardly occur.

    Raises:
      ValueError: shapes that don't fit, no labelled example, or one class alone.

    Example:
      >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
      >>> scaling = vector(logits, np.array([0, 0, 1, 1]), l2=1e-3)
      >>> np.exp(scaling(logits))[:, 0].round(2).tolist()
      [0.67, 0.67, 0.0, 0.67]
    """
    logits, labels = checked(logits, labels, "vector scaling")
    if len(np.unique(labels)) < 2:
        raise ValueError(
            f"all {len(labels)} labels are {labels[0]}; vector scaling needs examples of at least two classes"
        )
    classes = logits.shape[1]
    start = np.concatenate([np.ones(classes), np.zeros(classes)])

    def loss(flat):
        value, gradient = negative_log_likelihood(logits * flat[:classes] + flat[classes:] * bias, labels)
        moved = flat - start
        by = np.concatenate([np.sum(gradient * logits, axis=0), gradient.sum(axis=0) * bias])
        return value + l2 / 2 * np.sum(moved**2), by + l2 * moved

    flat = minimise(loss, start)
    return Scaling(flat[:classes], flat[classes:])
