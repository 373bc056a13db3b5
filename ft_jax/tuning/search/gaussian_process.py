"""Search by a Gaussian process: small, in numpy, for spaces of a few numbers and up to a few hundred trials."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from ft_jax.tuning.search.spaces import Choice, Space, encode

ROOT5 = 5**0.5


def matern(a: np.ndarray, b: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The Matérn 5/2 kernel with a length for each coordinate: ``(1 + √5 d + 5/3 d²) exp(-√5 d)``.

    Args:
      a, b: points ``[n, width]`` and ``[m, width]``.
      scales: lengths ``[width]``.

    Returns:
      ``[n, m]``.
    """
    distance = np.sqrt(np.maximum(((a[:, None] / scales - b[None] / scales) ** 2).sum(-1), 0.0))
    return (1 + ROOT5 * distance + 5 / 3 * distance**2) * np.exp(-ROOT5 * distance)


@dataclasses.dataclass(frozen=True)
class Posterior:
    """A Gaussian process after some observations, of values brought to mean 0 and deviation 1.

    Attributes:
      points: ``[n, width]``.
      scales: lengths ``[width]``.
      signal, noise: variances.
      factor: the lower Cholesky factor of the covariance ``[n, n]``.
      weights: the covariance's inverse times the values ``[n]``.
    """

    points: np.ndarray
    scales: np.ndarray
    signal: float
    noise: float
    factor: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, points, values, scales, signal: float = 1.0, noise: float = 1e-6) -> "Posterior":
        """With given hyperparameters."""
        covariance = signal * matern(points, points, scales) + noise * np.eye(len(points))
        factor = cholesky(covariance, lower=True)
        return cls(points, np.asarray(scales), signal, noise, factor, cho_solve((factor, True), values))

    @classmethod
    def fit(cls, points: np.ndarray, values: np.ndarray) -> "Posterior":
        """With the hyperparameters of the highest marginal likelihood, under wide log-normal priors on them."""
        width = points.shape[1]

        def posterior(theta):
            return cls.of(points, values, np.exp(theta[:width]), np.exp(theta[width]), np.exp(theta[width + 1]))

        def loss(theta):
            try:
                fitted = posterior(theta)
            except np.linalg.LinAlgError:
                return 1e10
            fit = 0.5 * values @ fitted.weights + np.log(np.diag(fitted.factor)).sum()
            centre = np.r_[np.full(width, np.log(0.5)), 0.0, np.log(1e-4)]
            return fit + 0.5 * (((theta - centre) / np.r_[np.full(width, 1.0), 1.0, 2.0]) ** 2).sum()

        bounds = [(np.log(0.02), np.log(20.0))] * width + [(np.log(0.05), np.log(20.0)), (np.log(1e-6), np.log(0.5))]
        starts = [np.r_[np.full(width, np.log(length)), 0.0, np.log(1e-4)] for length in (0.2, 1.0)]
        best = min((minimize(loss, x, bounds=bounds, options={"maxiter": 40}) for x in starts), key=lambda one: one.fun)
        return posterior(best.x)

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of the function at points ``[m, width]``."""
        cross = self.signal * matern(self.points, points, self.scales)
        mean = cross.T @ self.weights
        left = solve_triangular(self.factor, cross, lower=True)
        return mean, np.sqrt(np.maximum(self.signal - (left**2).sum(0), 1e-12))


def expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """``E[max(best - f, 0)] = (best - μ) Φ(z) + σ φ(z)`` with ``z = (best - μ) / σ``: for a minimum.

    Jones et al. 1998, "Efficient Global Optimization of Expensive Black-Box Functions", equation 15.
    """
    z = (best - mean) / deviation
    return (best - mean) * norm.cdf(z) + deviation * norm.pdf(z)


class GaussianProcess(optuna.samplers.BaseSampler):
    """Takes the point of the highest expected improvement under a Gaussian process of the trials so far.

    Trials still running count with the value that the process expects of them (a believer), so workers don't
    ask for the same point. With priors on axes, the improvement is multiplied by their density to the power
    ``strength / trials``, which fades as results come in (πBO, Hvarfner et al. 2022, arXiv:2204.11051, equation 6).

    Args:
      space: axes by name.
      seed: of the random start and of the candidates.
      startup: random trials first.
      strength: β of the priors.
    """

    def __init__(self, space: Space, seed: int | None = None, startup: int = 8, strength: float = 10.0):
        self._space, self._startup, self._strength = dict(space), startup, strength
        self._draw = np.random.default_rng(seed)
        self._independent = optuna.samplers.RandomSampler(seed=seed)

    def infer_relative_search_space(self, study, trial) -> dict[str, Any]:
        """All of the space, from the first trial on."""
        return {name: axis.distribution() for name, axis in self._space.items()}

    def sample_independent(self, study, trial, param_name, param_distribution) -> Any:
        """For values that the space does not have: uniform."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def sample_relative(self, study, trial, search_space) -> Mapping[str, Any]:
        """The next combination."""
        states = optuna.trial.TrialState
        seen = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.RUNNING))
        seen = [one for one in seen if one.number != trial.number and set(self._space) <= set(one.params)]
        done = [one for one in seen if one.state == states.COMPLETE]
        if len(done) < self._startup:
            return self._random(1)[0]
        sign = 1.0 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1.0
        values = sign * np.array([one.value for one in done])
        # Ranks to normal scores: an outlier, such as a run that all but diverged, doesn't flatten the rest.
        values = norm.ppf((values.argsort().argsort() + 0.5) / len(values))
        points = np.array([encode(self._space, one.params) for one in done])
        running = [encode(self._space, one.params) for one in seen if one.state == states.RUNNING]
        # Matrices this small only wait for the threads of a BLAS.
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore", RuntimeWarning)
            posterior = Posterior.fit(points, values)
            if running:
                believed, _ = posterior.predict(np.array(running))
                points, values = np.r_[points, running], np.r_[values, believed]
                posterior = Posterior.of(points, values, posterior.scales, posterior.signal, posterior.noise)
            return self._best_of(posterior, values.min(), done[int(np.argmin(values[: len(done)]))].params, len(done))

    def _best_of(self, posterior: Posterior, best: float, leader: Mapping[str, Any], count: int) -> dict[str, Any]:
        candidates = self._random(1024) + [self._near(leader, width) for width in (0.1, 0.02) for _ in range(256)]

        def merit(some):
            points = np.array([encode(self._space, one) for one in some])
            gained = expected_improvement(*posterior.predict(points), best)
            return np.log(np.maximum(gained, 1e-300)) + self._strength / count * np.array(
                [self._log_prior(one) for one in some]
            )

        for width in (0.05, 0.01, 0.002):
            top = candidates[int(np.argmax(merit(candidates)))]
            candidates = [top, *(self._near(top, width) for _ in range(128))]
        return candidates[int(np.argmax(merit(candidates)))]

    def _random(self, count: int) -> list[dict[str, Any]]:
        return [{name: axis.at(self._draw.random()) for name, axis in self._space.items()} for _ in range(count)]

    def _near(self, values: Mapping[str, Any], width: float) -> dict[str, Any]:
        """A combination near another; a choice changes now and then."""

        def one(name, axis):
            if isinstance(axis, Choice):
                return axis.at(self._draw.random()) if self._draw.random() < 0.2 else values[name]
            return axis.at(float(np.clip(axis.share(values[name]) + width * self._draw.normal(), 0, 1)))

        return {name: one(name, axis) for name, axis in self._space.items()}

    def _log_prior(self, values: Mapping[str, Any], spread: float = 0.15) -> float:
        total = 0.0
        for name, axis in self._space.items():
            if axis.prior is None:
                continue
            if isinstance(axis, Choice):
                total += np.log(0.5 * (values[name] == axis.prior) + 0.5 / len(axis.values))
            else:
                total -= 0.5 * ((axis.share(values[name]) - axis.share(axis.prior)) / spread) ** 2
        return total
