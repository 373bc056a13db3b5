import warnings

import numpy as np
import optuna
import pytest
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from ft_jax.tuning.search import Search, Uniform, minimise, parse_space
from ft_jax.tuning.search.gaussian_process import Posterior, expected_improvement, matern

SQUARE = {"x": Uniform(-5.0, 5.0), "y": Uniform(-5.0, 5.0)}


def bowl(at):
    return (at["x"] - 1) ** 2 + (at["y"] + 2) ** 2


@pytest.mark.parametrize("name", ["tpe", "cma"])
def test_tpe_and_cma_with_a_seed_are_optunas(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=5, multivariate=True, constant_liar=True),
            "cma": lambda: optuna.samplers.CmaEsSampler(seed=5),
        }[name]()
    plain = optuna.create_study(sampler=theirs)
    plain.optimize(lambda t: bowl({n: t.suggest_float(n, -5, 5) for n in "xy"}), n_trials=20)
    ours = minimise(bowl, SQUARE, 20, Search(name, seed=5))
    assert [trial.params for trial in ours.trials] == [trial.params for trial in plain.trials]


@pytest.mark.parametrize("name, bound", [("tpe", 1.0), ("cma", 0.5), ("gp", 0.05)])
def test_a_search_finds_the_bottom_of_a_bowl(name, bound):
    assert minimise(bowl, SQUARE, 24 if name == "gp" else 40, Search(name, seed=0)).best_value < bound


def test_four_asked_for_together_are_four_different_ones():
    study = minimise(bowl, SQUARE, 32, Search("tpe", seed=0, startup=8), together=4)
    for begin in range(8, 32, 4):
        points = np.array([list(trial.params.values()) for trial in study.trials[begin : begin + 4]])
        gaps = np.linalg.norm(points[:, None] - points[None], axis=-1)[np.triu_indices(4, 1)]
        assert gaps.min() > 1e-3


def test_a_grid_tries_every_combination_and_a_prior_is_tried_first():
    study = minimise(lambda at: at["x"], parse_space(["x=1..3", "y=a,b"]), None, Search("grid"))
    assert len(study.trials) == 6 and study.best_params["x"] == 1
    study = minimise(bowl, parse_space(["x=-5.0..5.0~1.0", "y=-5.0..5.0~-2.0"]), 5, Search("gp"))
    assert study.trials[0].value == 0.0


def test_an_objective_that_is_not_a_number_fails_its_trial_and_the_search_goes_on():
    study = minimise(lambda at: float("nan") if at["x"] < 0 else bowl(at), SQUARE, 20, Search("random"))
    states = {trial.state.name for trial in study.trials}
    assert states == {"COMPLETE", "FAIL"} and len(study.trials) == 20
    assert all("nan" in trial.user_attrs["why"] for trial in study.trials if trial.state.name == "FAIL")


def test_the_gaussian_process_is_scikit_learns():
    draw = np.random.default_rng(0)
    points, values, asked = draw.random((12, 3)), draw.normal(size=12), draw.random((7, 3))
    scales = np.array([0.3, 0.7, 1.5])
    mean, deviation = Posterior.of(points, values, scales, noise=1e-4).predict(asked)
    theirs = GaussianProcessRegressor(Matern(scales, nu=2.5), alpha=1e-4, optimizer=None).fit(points, values)
    expected = theirs.predict(asked, return_std=True)
    np.testing.assert_allclose(mean, expected[0], atol=1e-8)
    np.testing.assert_allclose(deviation, expected[1], atol=1e-8)
    np.testing.assert_allclose(np.diag(matern(points, points, scales)), 1)


def test_expected_improvement_is_the_mean_of_the_improvement():
    draws = norm.rvs(0.3, 0.5, size=400_000, random_state=0)
    assert expected_improvement(0.3, 0.5, 0.1) == pytest.approx(np.maximum(0.1 - draws, 0).mean(), abs=2e-3)


@pytest.mark.parametrize(
    "search, words, message",
    [
        (lambda: Search("anneal"), ["x=1..2"], "there is no sampler 'anneal'"),
        (lambda: Search(pruner="axe"), ["x=1..2"], "there is no pruner 'axe'"),
        (lambda: Search("cma"), ["x=1..2", "y=a,b"], "y is a choice"),
        (lambda: Search("cma"), ["x=1..2"], "one number alone"),
        (lambda: Search("random"), [], "the space is empty"),
    ],
)
def test_a_search_that_cannot_be_is_refused(search, words, message):
    with pytest.raises(ValueError, match=message):
        search().check(parse_space(words))
