"""The Laplace approximation of a classifier's last layer."""

import dataclasses

import numpy as np

from ft_jax.ensemble.calibration.softmax import log_softmax


@dataclasses.dataclass(frozen=True)
class Laplace:
    """A Gaussian over the last layer's weights around those that were trained.

    Attributes:
      covariance: ``[(width + 1) · classes] ²``, of the kernel with the bias as its last row, class by class within a
        feature.
      classes: how many.
    """

    covariance: np.ndarray
    classes: int

    def variances(self, features: np.ndarray) -> np.ndarray:
        """The covariance of each example's logits, ``[rows, classes, classes]``."""
        phi = _with_one(features)
        blocks = self.covariance.reshape(phi.shape[1], self.classes, phi.shape[1], self.classes)
        return np.einsum("nf,fcgd,ng->ncd", phi, blocks, phi, optimize=True)

    def __call__(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Log-probabilities ``log_softmax(logits / √(1 + π / 8 · variance))`` (MacKay 1992's probit approximation)."""
        variance = np.einsum("ncc->nc", self.variances(features))
        return log_softmax(np.asarray(logits, np.float64) / np.sqrt(1 + np.pi / 8 * variance))


def last_layer(features: np.ndarray, logits: np.ndarray, *, prior_precision: float = 1.0) -> Laplace:
    """The posterior of a trained last layer in closed form (Daxberger et al. 2021, arXiv:2106.14806, section 2).

    For a softmax over linear logits the generalised Gauss-Newton matrix is the Hessian itself:
    ``Σ_i φ_i φ_iᵀ ⊗ (diag(p_i) - p_i p_iᵀ) + prior_precision · 1``, and the covariance its inverse. ``φ`` are the
    features that the head reads (``Outputs.hidden`` of `ft_jax.core.outputs_of`) with a 1 for the bias.

    Args:
      features: ``[rows, width]`` of the training examples.
      logits: ``[rows, classes]`` of the trained head on them.
      prior_precision: of the weights' Gaussian prior; what was trained with is weight decay times the examples.

    Raises:
      ValueError: shapes that disagree, a precision that is not positive, or more than 20,000 weights.

    Example:
      >>> features, logits = np.array([[1.0], [-1.0]]), np.array([[2.0, -2.0], [-2.0, 2.0]])
      >>> posterior = last_layer(features, logits)
      >>> near, far = (np.exp(posterior(np.array([[x]]), np.array([[2.0 * x, -2.0 * x]])))[0, 0] for x in (1.0, 10.0))
      >>> round(float(near), 3), round(float(far), 3)
      (0.953, 0.998)
    """
    features, logits = np.asarray(features, np.float64), np.asarray(logits, np.float64)
    if features.ndim != 2 or logits.ndim != 2 or len(features) != len(logits) or not len(features):
        raise ValueError(
            f"features {features.shape} and logits {logits.shape} must be [rows, width] and [rows, classes]"
        )
    if not prior_precision > 0:
        raise ValueError(f"prior_precision is {prior_precision}; a prior needs a positive one")
    phi, probabilities = _with_one(features), np.exp(log_softmax(logits))
    size = phi.shape[1] * logits.shape[1]
    if size > 20_000:
        raise ValueError(f"the last layer has {size:,} weights, whose covariance would not fit; take fewer features")
    curvature = -np.einsum("nc,nd->ncd", probabilities, probabilities)
    curvature[:, np.arange(logits.shape[1]), np.arange(logits.shape[1])] += probabilities
    hessian = np.einsum("nf,ncd,ng->fcgd", phi, curvature, phi, optimize=True).reshape(size, size)
    return Laplace(np.linalg.inv(hessian + prior_precision * np.eye(size)), logits.shape[1])


def _with_one(features) -> np.ndarray:
    features = np.asarray(features, np.float64)
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)
