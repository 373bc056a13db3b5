"""Fusions against closed forms, scikit-learn's voting and stacking, and a stack that leaks."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_digits
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from ft_jax.data import folds
from ft_jax.ensemble import calibration, fusion


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    return x[order][:600] / 16, y[order][:600]


LEARNERS = {
    "bayes": lambda: GaussianNB(var_smoothing=1e-2),
    "tree": lambda: DecisionTreeClassifier(max_depth=6, random_state=0),
    "near": lambda: KNeighborsClassifier(5),
}


def logits_of(model, x):
    return np.log(np.maximum(model.predict_proba(x), 1e-7))


@pytest.fixture(scope="module")
def fitted(digits):
    x, y = digits
    return [(name, make().fit(x[:400], y[:400])) for name, make in LEARNERS.items()]


def test_votes_are_scikit_learns(digits, fitted):
    x, y = digits
    logits = jnp.stack([logits_of(model, x[400:]) for _, model in fitted])
    for how, fuse in (("soft", fusion.mean), ("hard", fusion.vote)):
        voting = VotingClassifier([(name, LEARNERS[name]()) for name, _ in fitted], voting=how).fit(x[:400], y[:400])
        agreed = np.asarray(fuse(logits).argmax(-1)) == voting.predict(x[400:])
        # Of three members that differ scikit-learn takes the lowest class, and here the likelier one is taken.
        tied = np.array([len(set(votes)) == 3 for votes in np.asarray(logits.argmax(-1)).T]) & (how == "hard")
        assert np.all(agreed | tied)
    soft = np.exp(np.asarray(fusion.mean(logits)))
    np.testing.assert_allclose(soft, np.exp(logits).mean(0) / np.exp(logits).mean(0).sum(-1, keepdims=True), atol=1e-5)


def test_a_product_is_the_normalised_product():
    chances = np.array([[[0.5, 0.3, 0.2]], [[0.1, 0.6, 0.3]]])
    wanted = np.sqrt(chances[0] * chances[1])
    np.testing.assert_allclose(np.exp(fusion.product(jnp.log(chances))), wanted / wanted.sum(), rtol=1e-5)


def test_mixture_weights_maximise_the_likelihood(digits, fitted):
    from scipy.optimize import minimize

    x, y = digits
    logits = jnp.stack([logits_of(model, x[400:]) for _, model in fitted])
    weights = fusion.mixture_weights(logits, jnp.asarray(y[400:]), rounds=3000)

    def loss(free):
        shares = np.exp(free - free.max())
        return -calibration.scores(fusion.weighted(logits, shares / shares.sum()), y[400:]).log_likelihood

    best = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000})
    assert loss(np.log(np.maximum(np.asarray(weights), 1e-9))) < best.fun + 1e-5
    np.testing.assert_allclose(weights.sum(), 1.0, atol=1e-5)
    fused = calibration.scores(fusion.weighted(logits, weights), y[400:]).log_likelihood
    assert fused >= max(calibration.scores(member, y[400:]).log_likelihood for member in logits) - 1e-6


def learner(make, x, y):
    def train(rows):
        model = make().fit(x[rows], y[rows])
        return lambda asked: np.log(np.maximum(model.predict_proba(x[asked]), 1e-7))

    return train


def test_a_stack_is_scikit_learns(digits):
    """The same folds, learners and second model; as members' probabilities they give it log-probabilities."""
    x, y = digits
    x, y = x[y < 4], y[y < 4]
    half = len(y) // 2
    cut = folds(3, half, kind="stratified", labels=y[:half])
    names = ["bayes", "near"]
    theirs = StackingClassifier(
        [(name, Logarithms(LEARNERS[name]())) for name in names], LogisticRegression(tol=1e-8, max_iter=2000), cv=cut
    ).fit(x[:half], y[:half])
    stack = fusion.stack([fusion.out_of_fold(learner(LEARNERS[name], x, y), cut) for name in names], y[:half])
    whole = [LEARNERS[name]().fit(x[:half], y[:half]) for name in names]
    ours = np.exp(stack(np.stack([logits_of(model, x[half:]) for model in whole])))
    np.testing.assert_allclose(ours, theirs.predict_proba(x[half:]), atol=1e-3)


class Logarithms(ClassifierMixin, BaseEstimator):
    """A classifier that gives log-probabilities where scikit-learn asks for probabilities."""

    def __init__(self, model):
        self.model = model

    def fit(self, x, y):
        self.model_ = clone(self.model).fit(x, y)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, x):
        logits = logits_of(self.model_, x)
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def predict(self, x):
        return self.model_.predict(x)


def test_a_stack_on_predictions_that_leak_trusts_the_member_that_memorises(digits):
    """One neighbour knows every training label by heart: a leaking stack follows it, an out-of-fold stack does not."""
    x, y = digits
    x, y = x[y < 3], y[y < 3]
    count = len(y) // 2
    generator = np.random.default_rng(1)
    noisy = np.where(generator.random(count) < 0.4, generator.integers(0, 3, count), y[:count])
    learners = [
        learner(lambda: KNeighborsClassifier(1), x, noisy),
        learner(lambda: LogisticRegression(C=0.1), x, noisy),
    ]
    cut, everything = folds(4, count), np.arange(count)
    held = [fusion.out_of_fold(train, cut) for train in learners]
    none, first = (np.array([], int),), np.zeros(count, int)
    leaking = [fusion.OutOfFold(train(everything)(everything), none, first) for train in learners]
    later = np.stack([train(everything)(np.arange(count, len(y))) for train in learners])
    honest, fooled = (calibration.scores(fusion.stack(m, noisy)(later), y[count:]) for m in (held, leaking))
    assert honest.accuracy > fooled.accuracy + 0.03 and honest.log_likelihood > fooled.log_likelihood + 0.5
    told = [fusion.OutOfFold(member.predictions, (everything,), first) for member in leaking]
    with pytest.raises(ValueError, match="example 0 was predicted by the model of fold 0, which was trained on it"):
        fusion.stack(told, noisy)


def test_a_stack_of_numbers_weighs_members_by_what_they_add():
    generator = np.random.default_rng(0)
    truth = generator.normal(size=300)
    good, bad = truth + 0.1 * generator.normal(size=300), generator.normal(size=300)
    cut = folds(3, 300)
    members = [fusion.out_of_fold(lambda rows, v=values: lambda asked: v[asked], cut) for values in (good, bad)]
    weights = fusion.stack_values(members, truth)
    assert weights[0] > 0.95 and 0 <= weights[1] < 0.05


def test_gaussians_fuse_to_the_mixtures_moments():
    means, variances = np.array([0.0, 1.0, 4.0]), np.array([1.0, 2.0, 0.5])
    generator = np.random.default_rng(0)
    which = generator.integers(0, 3, 400_000)
    drawn = means[which] + np.sqrt(variances[which]) * generator.normal(size=400_000)
    centre, spread = fusion.gaussian(jnp.asarray(means), jnp.asarray(variances))
    np.testing.assert_allclose([centre, spread], [drawn.mean(), drawn.var()], rtol=2e-2)
    np.testing.assert_allclose(fusion.mean_value(jnp.asarray(means), jnp.array([1.0, 1.0, 2.0])), 2.25)


def test_tokens_fuse_as_whole_distributions_do():
    generator = np.random.default_rng(0)
    logits = jnp.asarray(generator.normal(size=(3, 2, 4, 7)))
    labels = generator.integers(0, 7, (2, 4))
    logs = logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))
    own = np.take_along_axis(np.asarray(logs), labels[None, ..., None], -1)[..., 0]
    for weights in (None, jnp.array([0.2, 0.3, 0.5])):
        whole = fusion.mean(logits) if weights is None else fusion.weighted(logits, weights)
        wanted = np.take_along_axis(np.asarray(whole), labels[..., None], -1)[..., 0]
        np.testing.assert_allclose(fusion.token_log_probability(jnp.asarray(own), weights), wanted, atol=1e-5)


def test_a_majority_needs_its_quorum():
    votes = [["x", "y", None], ["x", "z", "w"], ["q", "y", None]]
    assert fusion.majority(votes) == ["x", "y", None]
    assert fusion.majority(votes, quorum=1) == ["x", "y", "w"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: fusion.majority([["a"], ["b", "c"]]), "different numbers of examples"),
        (lambda: fusion.majority([["a"], ["b"]]), "no example has an answer with 2 of 2 votes"),
        (lambda: fusion.majority([["a"], ["b"]], quorum=3), "a quorum of 3 can't be had from 2 members"),
        (lambda: fusion.mixture_weights(jnp.zeros((2, 3, 2)), jnp.full(3, -1)), "none of 3 examples has a label"),
        (lambda: fusion.out_of_fold(None, [(np.array([1]), np.array([0])), (np.array([0]), np.array([0]))]), "twice"),
        (
            lambda: fusion.out_of_fold(None, [(np.array([0, 1]), np.array([0])), (np.array([0]), np.array([1]))]),
            "trained on it",
        ),
        (
            lambda: fusion.stack([fusion.OutOfFold(np.zeros((3, 2)), (), np.zeros(3, int))], np.zeros(3, int)),
            "at least two classes",
        ),
        (lambda: fusion.stack([np.zeros((3, 2))], np.array([0, 1, 0])), "member 0 is ndarray, which doesn't say"),
        (lambda: fusion.stack([], np.array([0, 1, 0])), "no member"),
        (
            lambda: fusion.stack(
                [fusion.OutOfFold(np.zeros((3, c)), (), np.zeros(3, int)) for c in (2, 3)], np.array([0, 1, 0])
            ),
            r"member 1 predicts \(3, 3\), member 0 \(3, 2\)",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_a_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize("way", [*fusion.FUSIONS.values(), fusion.mean_value, fusion.token_log_probability])
def test_members_given_one_by_one_are_fused_as_one_array_is(way):
    members = np.random.default_rng(0).normal(size=(3, 5, 4))
    np.testing.assert_array_equal(way(list(members)), way(jnp.asarray(members)))
    with pytest.raises(ValueError, match=r"member 2 predicts \(5, 3\) and member 0 \(5, 4\)"):
        way([*members[:2], members[2, :, :3]])
    with pytest.raises(ValueError, match="no member predicts"):
        way([])
