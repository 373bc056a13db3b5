"""A search over a space: how it picks, how it gives up early, and a small loop for plain functions."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna

from ft_jax.tuning.search.gaussian_process import GaussianProcess
from ft_jax.tuning.search.spaces import Choice, Plain, Space, Whole, grid, start

SAMPLERS = ("tpe", "random", "grid", "cma", "gp")
PRUNERS = ("none", "wilcoxon", "median", "hyperband")

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclasses.dataclass(frozen=True)
class Search:
    """How combinations are picked and given up.

    Attributes:
      sampler: ``"tpe"``: tree-structured Parzen estimators over all values together, with trials that still run
        taken for bad ones (Bergstra et al. 2011; optuna's, multivariate, constant liar), so that several can be
        asked for at once; ``"random"``; ``"grid"``: every combination; ``"cma"``: covariance matrix adaptation
        (Hansen 2016, arXiv:1604.00772; optuna's) for two or more numbers; ``"gp"``: `GaussianProcess`.
      pruner: ``"wilcoxon"`` gives a combination up after some folds when a signed-rank test of its folds against
        the best one's says it is worse; ``"median"`` when it is below the median at the same evaluation;
        ``"hyperband"`` as Li et al. 2018; ``"none"``.
      seed: of all that is drawn; worker ``i`` adds ``i``.
      points: values of a range in a grid.
      startup: trials before the results count; with priors in the space these are drawn around them.

    Raises:
      ValueError: a name that is none of these, or a number that can't be.
    """

    sampler: str = "tpe"
    pruner: str = "none"
    seed: int = 0
    points: int = 3
    startup: int = 10

    def __post_init__(self):
        for name, value, known in (("sampler", self.sampler, SAMPLERS), ("pruner", self.pruner, PRUNERS)):
            if value not in known:
                raise ValueError(f"there is no {name} {value!r}; use one of {', '.join(known)}")
        if self.points < 1 or self.startup < 1:
            raise ValueError(f"points={self.points} and startup={self.startup} must be at least 1; correct them")

    def check(self, space: Space, objectives: int = 1) -> None:
        """Raises ValueError, in one sentence, on a space that the sampler can't search."""
        if not space:
            raise ValueError("the space is empty; give at least one PATH=LOW..HIGH or PATH=one,two,three")
        choices = [name for name, axis in space.items() if isinstance(axis, Choice)]
        if self.sampler == "cma" and (choices or len(space) < 2):
            what = f"{choices[0]} is a choice" if choices else "there is one number alone"
            raise ValueError(f"cma searches two or more numbers, and {what}; use sampler tpe, or gp")
        if objectives > 1 and self.sampler in ("cma", "gp"):
            raise ValueError(f"{self.sampler} searches for one objective, got {objectives}; use tpe, random or grid")
        if objectives > 1 and self.pruner != "none":
            raise ValueError(f"pruner {self.pruner} compares one objective, got {objectives}; use none")

    def build_sampler(self, space: Space, worker: int = 0) -> optuna.samplers.BaseSampler:
        """optuna's sampler of a worker."""
        seed = self.seed + worker
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if self.sampler == "tpe":
                return optuna.samplers.TPESampler(
                    seed=seed, n_startup_trials=self.startup, multivariate=True, constant_liar=True
                )
            if self.sampler == "cma":
                return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
            if self.sampler == "gp":
                return GaussianProcess(space, seed=seed, startup=self.startup)
            return optuna.samplers.RandomSampler(seed=seed)

    def build_pruner(self) -> optuna.pruners.BasePruner:
        """optuna's pruner."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return {
                "none": optuna.pruners.NopPruner,
                "wilcoxon": optuna.pruners.WilcoxonPruner,
                "median": optuna.pruners.MedianPruner,
                "hyperband": optuna.pruners.HyperbandPruner,
            }[self.pruner]()

    def slots(self, space: Space, trials: int | None) -> list[dict[str, Plain]]:
        """What every trial of a sweep has fixed before results are there; empty where the sampler picks.

        A grid fixes all of them, priors the first ones.

        Raises:
          ValueError: neither a grid nor a number of trials.

        Example:
          >>> from ft_jax.tuning.search import parse_space
          >>> Search("grid").slots(parse_space(["rank=4,8"]), None)
          [{'rank': 4}, {'rank': 8}]
          >>> Search("tpe", startup=2).slots(parse_space(["rank=1..8~4"]), 3)[0]
          {'rank': 4}
        """
        if self.sampler == "grid":
            cells = grid(space, self.points)
            return cells if trials is None else cells[:trials]
        if trials is None or trials < 1:
            raise ValueError(f"a {self.sampler} search needs a number of trials, got {trials}; give --trials")
        prior = any(axis.prior is not None for axis in space.values())
        first = start(space, min(self.startup, trials), self.seed) if prior else []
        return first + [{} for _ in range(trials - len(first))]


def minimise(
    function: Callable[[Mapping[str, Any]], float],
    space: Space,
    trials: int,
    search: Search = Search(),
    together: int = 1,
) -> optuna.Study:
    """Searches for the lowest value of a plain function, in this process.

    Args:
      function: ``values by name -> value``; one that is not finite is a failed trial.
      space: axes by name.
      trials: how many.
      search: how.
      together: combinations asked for before any of them is told, as workers and populations do.

    Returns:
      The study; ``study.best_params`` and ``study.best_value`` are the winner.

    Example:
      >>> from ft_jax.tuning.search import Uniform
      >>> study = minimise(lambda at: (at["x"] - 1) ** 2, {"x": Uniform(-4, 4)}, 30, Search("tpe", seed=1))
      >>> abs(study.best_params["x"] - 1) < 0.5
      True
    """
    search.check(space)
    study = optuna.create_study(sampler=search.build_sampler(space), direction="minimize")
    slots = search.slots(space, trials)
    for begin in range(0, len(slots), together):
        asked = [ask(study, space, fixed) for fixed in slots[begin : begin + together]]
        for trial, values in asked:
            tell(study, trial, [function(values)])
    return study


def ask(study: optuna.Study, space: Space, fixed: Mapping[str, Plain] | None = None) -> tuple[optuna.Trial, dict]:
    """A trial and its values by name, those of `fixed` as given."""
    if fixed:
        study.enqueue_trial(dict(fixed))
    trial = study.ask()
    return trial, suggest(trial, space)


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """The values that a trial takes."""
    found = {}
    for name, axis in space.items():
        if isinstance(axis, Choice):
            found[name] = trial.suggest_categorical(name, axis.values)
        else:
            suggested = trial.suggest_int if isinstance(axis, Whole) else trial.suggest_float
            found[name] = suggested(name, axis.low, axis.high, log=axis.log)
    return found


def tell(study: optuna.Study, trial: optuna.Trial, values: Sequence[float]) -> bool:
    """Records what a trial came to; False where a value is not finite, which fails the trial alone."""
    if all(math.isfinite(value) for value in values):
        study.tell(trial, list(map(float, values)))
        return True
    trial.set_user_attr("why", f"the objective is {', '.join(f'{value:g}' for value in values)}")
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return False
