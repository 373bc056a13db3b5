"""Multinomial logistic regression on the host, for few features: stacking and vector scaling."""

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of the last axis, in float64."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Its sum over rows, and its gradient by the logits."""
    logs = log_softmax(logits)
    rows = np.arange(len(labels))
    gradient = np.exp(logs)
    gradient[rows, labels] -= 1
    return float(-logs[rows, labels].sum()), gradient


def minimise(function, start: np.ndarray) -> np.ndarray:
    """The minimum of a convex function that gives value and gradient, by L-BFGS.

    Raises:
      ValueError: where it does not converge, as on logits that are not finite.
    """
    from scipy.optimize import minimize

    found = minimize(
        function, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "gtol": 1e-8, "ftol": 1e-14}
    )
    if not np.all(np.isfinite(found.x)) or not np.isfinite(found.fun):
        raise ValueError("predictions are not finite, so nothing can be fitted to them; look at the members' logits")
    return found.x


def fit_softmax(features: np.ndarray, labels: np.ndarray, classes: int, *, l2: float) -> tuple[np.ndarray, np.ndarray]:
    """``(kernel [features, classes], bias [classes])`` that minimise ``Σ -log p(label) + l2 / 2 · ‖kernel‖²``."""
    features = np.asarray(features, np.float64)
    width = features.shape[1]

    def loss(flat):
        kernel, bias = flat[: width * classes].reshape(width, classes), flat[width * classes :]
        value, by_logits = negative_log_likelihood(features @ kernel + bias, labels)
        by_kernel = features.T @ by_logits + l2 * kernel
        return value + l2 / 2 * np.sum(kernel**2), np.concatenate([by_kernel.ravel(), by_logits.sum(axis=0)])

    flat = minimise(loss, np.zeros((width + 1) * classes))
    return flat[: width * classes].reshape(width, classes), flat[width * classes :]


def checked(logits, labels, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows ``[rows, classes]`` with their labels, those of negative labels left out.

    Raises:
      ValueError: shapes that don't fit, a label that is no class, or no row left.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if logits.ndim < 2 or labels.shape != logits.shape[:-1]:
        raise ValueError(f"{what} has logits {logits.shape} and labels {labels.shape}; give [rows, classes] and [rows]")
    logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    logits, labels = logits[labels >= 0], labels[labels >= 0]
    if not len(labels):
        raise ValueError(f"{what} has no example with a label; give at least one")
    if labels.max() >= logits.shape[1]:
        raise ValueError(f"{what} has a label {labels.max()} and logits of {logits.shape[1]} classes; they don't fit")
    if not np.all(np.isfinite(logits)):
        raise ValueError(f"{what} has logits that are not finite; look at the members' predictions")
    return logits, labels
