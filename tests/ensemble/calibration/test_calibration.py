"""Scores, scaling and conformal sets against recorded torch-uncertainty, scikit-learn and what they promise."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss

from ft_jax.ensemble import calibration
from ft_jax.ensemble.calibration.conformal import set_scores
from ft_jax.ensemble.calibration.softmax import log_softmax


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(Path(__file__).parents[2] / "golden" / "calibration.npz"))


def drawn(rows, seed, classes=5, sharp=1.0):
    """Logits whose softmax at `sharp` 1 is the true chance of each label."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(rows, classes))
    chances = np.exp(log_softmax(logits))
    labels = np.array([generator.choice(classes, p=p) for p in chances])
    return sharp * logits, labels


def test_scores_are_torch_uncertaintys_and_scikit_learns(golden):
    found = calibration.scores(golden["logits"], golden["labels"])
    np.testing.assert_allclose(found.brier, golden["brier"], atol=1e-6)
    np.testing.assert_allclose(-found.log_likelihood, golden["nll"], atol=1e-6)
    np.testing.assert_allclose(found.ece, golden["ece"], atol=1e-6)
    np.testing.assert_allclose(-found.log_likelihood, log_loss(golden["labels"], np.exp(log_softmax(golden["logits"]))))
    assert found.accuracy == np.mean(golden["logits"].argmax(1) == golden["labels"]) and found.count == 200


def test_scaled_log_probabilities_are_torch_uncertaintys(golden):
    for name, scaling in (
        ("temperature", calibration.temperature(golden["logits"], golden["labels"])),
        ("vector", calibration.vector(golden["logits"], golden["labels"], bias=False)),
    ):
        # Their optimiser stops a little before the minimum, so here the labels are as likely or likelier.
        np.testing.assert_allclose(scaling(golden["logits"]), golden[name], atol=2e-2)
        ours, theirs = (calibration.scores(x, golden["labels"]) for x in (scaling(golden["logits"]), golden[name]))
        assert theirs.log_likelihood - 1e-7 < ours.log_likelihood < theirs.log_likelihood + 1e-4


def test_the_temperature_that_the_data_have_is_found_and_calibrates():
    logits, labels = drawn(4000, 0, sharp=2.5)
    scaling = calibration.temperature(logits[:2000], labels[:2000])
    assert abs(scaling.temperature - 2.5) < 0.2
    before, after = (calibration.scores(x, labels[2000:]) for x in (logits[2000:], scaling(logits[2000:])))
    assert after.ece < before.ece / 2 and after.log_likelihood > before.log_likelihood
    assert after.accuracy == before.accuracy


def test_vector_scaling_is_at_its_minimum_and_no_worse_than_a_temperature():
    logits, labels = drawn(500, 1, sharp=2.0)
    logits = logits + np.array([0, 1.0, 0, -1.0, 0])
    scaling = calibration.vector(logits, labels)
    best = -calibration.scores(scaling(logits), labels).log_likelihood
    assert best < -calibration.scores(calibration.temperature(logits, labels)(logits), labels).log_likelihood - 0.01
    generator = np.random.default_rng(0)
    for _ in range(20):
        moved = calibration.Scaling(
            scaling.scale + 1e-2 * generator.normal(size=5), scaling.bias + 1e-2 * generator.normal(size=5)
        )
        assert -calibration.scores(moved(logits), labels).log_likelihood >= best - 1e-9


def test_conformal_scores_are_torch_uncertaintys(golden):
    np.testing.assert_allclose(set_scores(golden["logits"], 0.0, 1, 0.0 * golden["labels"]), golden["aps"], atol=1e-6)
    np.testing.assert_allclose(set_scores(golden["logits"], 0.2, 2, 0.0 * golden["labels"]), golden["raps"], atol=1e-6)


@pytest.mark.parametrize("make", [calibration.aps, calibration.raps])
def test_sets_hold_the_label_as_often_as_promised(make):
    """Over 300 draws of calibration and test examples: between 1 - alpha and 1 - alpha + 1 / (n + 1), to 4 errors."""
    logits, labels = drawn(6000, 2, sharp=0.4)
    generator, alpha, n = np.random.default_rng(0), 0.2, 19
    covered = []
    for draw in range(300):
        rows = generator.permutation(6000)[: n + 60]
        sets = make(logits[rows[:n]], labels[rows[:n]], alpha=alpha, seed=draw)(logits[rows[n:]])
        covered.append(calibration.coverage(sets, labels[rows[n:]])[0])
    error = np.std(covered) / np.sqrt(len(covered))
    assert 1 - alpha - 4 * error < np.mean(covered) < 1 - alpha + 1 / (n + 1) + 4 * error


def test_regularised_sets_have_no_long_tail():
    logits, labels = drawn(1500, 3, classes=20, sharp=0.5)
    plain, small = (
        make(logits[:700], labels[:700], alpha=0.1)(logits[700:]) for make in (calibration.aps, calibration.raps)
    )
    assert small.sum(1).max() < plain.sum(1).max()
    assert min(calibration.coverage(sets, labels[700:])[0] for sets in (plain, small)) > 0.86


def test_a_token_stream_is_scored_where_it_has_labels():
    logits, labels = drawn(60, 4)
    stream, marks = logits.reshape(6, 10, 5), labels.reshape(6, 10).copy()
    marks[:, 7:] = -1
    kept = calibration.scores(stream[:, :7].reshape(-1, 5), marks[:, :7].reshape(-1))
    assert calibration.scores(stream, marks) == kept and kept.count == 42
    assert np.array_equal(
        calibration.temperature(stream, marks).scale, calibration.temperature(stream[:, :7], marks[:, :7]).scale
    )


def test_the_picture_shows_every_bin_with_examples():
    logits, labels = drawn(300, 5)
    found = calibration.reliability(logits, labels, bins=10)
    picture = found.picture("Members")
    assert picture.count("<rect") == 2 * len(found.share) + 1 and f"ECE {found.error:.4f}" in picture
    np.testing.assert_allclose(found.share.sum(), 1.0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: calibration.scores(np.zeros((3, 2)), np.zeros(2, int)), r"logits \(3, 2\) and labels \(2,\)"),
        (lambda: calibration.scores(np.zeros((2, 2)), np.full(2, -1)), "no example with a label"),
        (lambda: calibration.temperature(np.zeros((2, 2)), np.array([0, 2])), "label 2 and logits of 2 classes"),
        (lambda: calibration.vector(np.full((2, 2), np.nan), np.array([0, 1])), "not finite"),
        (lambda: calibration.aps(np.zeros((5, 2)), np.zeros(5, int), alpha=0.1), "give at least 9"),
        (lambda: calibration.aps(np.zeros((5, 2)), np.zeros(5, int), alpha=1.5), "aps has alpha 1.5"),
        (lambda: calibration.raps(np.zeros((5, 2)), np.zeros(5, int), penalty=-1), "neither can be negative"),
        (lambda: calibration.reliability(np.zeros((5, 2)), np.zeros(5, int), bins=0), "0 bins"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call()
