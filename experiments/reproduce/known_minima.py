"""Searches on Branin and Hartmann-6, whose minima are known: regret after 60 trials against random search."""

import numpy as np

from ft_jax.training.report.charts import Series, line_chart
from ft_jax.training.reproduction import Found, Reproduction, at_most, within
from ft_jax.tuning.search import Search, Uniform, minimise

TRIALS = 60


def branin(at):
    """``(y - 5.1/(4π²) x² + 5/π x - 6)² + 10 (1 - 1/(8π)) cos x + 10`` on [-5, 10] × [0, 15]; minimum 0.397887."""
    x, y = at["x"], at["y"]
    return (y - 5.1 / (4 * np.pi**2) * x**2 + 5 / np.pi * x - 6) ** 2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x) + 10


ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann(at):
    """``-Σ αᵢ exp(-Σ Aᵢⱼ (xⱼ - Pᵢⱼ)²)`` on the unit cube of six sides; minimum -3.32237."""
    x = np.array([at[f"x{place}"] for place in range(6)])
    return -float(ALPHA @ np.exp(-(A * (x - P) ** 2).sum(1)))


PROBLEMS = {
    "Branin": (branin, {"x": Uniform(-5.0, 10.0), "y": Uniform(0.0, 15.0)}, 0.397887),
    "Hartmann-6": (hartmann, {f"x{place}": Uniform(0.0, 1.0) for place in range(6)}, -3.32237),
}
SEARCHES = ("random", "tpe", "cma", "gp")
"""All are drawn. Models of the function, TPE's and the Gaussian process's, are asked to beat random search; CMA-ES
is a local search that is slow to move on Branin in so few trials."""


def regrets(function, space, least, sampler, seed, trials):
    """The best regret after each trial ``[trials]``."""
    study = minimise(function, space, trials, Search(sampler, seed=seed))
    return np.minimum.accumulate([trial.value for trial in study.trials]) - least


def measure(seeds, quick):
    """Regrets of all searches on both problems over the seeds."""
    findings, pictures = [], {}
    optimum = branin({"x": np.pi, "y": 2.275})
    place = [0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573]
    findings.append(within("Branin at (π, 2.275)", 0.397887, optimum, 1e-6))
    findings.append(
        within("Hartmann-6 at its minimum", -3.32237, hartmann({f"x{i}": v for i, v in enumerate(place)}), 1e-5)
    )
    for name, (function, space, least) in PROBLEMS.items():
        curves = {
            sampler: np.array([regrets(function, space, least, sampler, seed, TRIALS) for seed in seeds])
            for sampler in SEARCHES
        }
        random = float(curves["random"][:, -1].mean())
        for sampler in ("tpe", "gp"):
            ours = curves[sampler][:, -1].tolist()
            what = f"{name}: regret of {sampler} after {TRIALS} trials, below random search's {random:.3g}"
            findings.append(at_most(what, random, ours))
        lines = [
            Series(sampler, [(trial, max(float(value), 1e-6)) for trial, value in enumerate(curve.mean(0), start=1)])
            for sampler, curve in curves.items()
        ]
        pictures[f"{name}: mean regret by trial ({', '.join(SEARCHES)})"] = line_chart(f"{name} regret", lines)
    return Found(findings, pictures)


reproduction = Reproduction(
    title="Searches on functions whose minima are known",
    paper="Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization, NeurIPS",
    where="figure 1: model-based searches beat random ones",
    setting="other",
    difference="Branin and Hartmann-6 in place of Boston housing; the minima are the closed forms'.",
    measure=measure,
    seeds=tuple(range(10)),
    seconds=100,
)
