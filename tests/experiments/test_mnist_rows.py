"""The rows of MNIST in ``ft-jax reproduce``: the omitted three, the distilled net, ten networks against one."""

import numpy as np
import pytest

from experiments.reproduce import _mnist, mnist_distilled, mnist_ensemble, mnist_omitted_three
from experiments.reproduce._mnist import BATCH, learned, logits, order, several, wrong
from experiments.reproduce._permuted import digits
from ft_jax.core import compose


def test_steps_hold_every_example_of_the_other_classes_once_a_pass():
    labels = np.repeat(np.arange(10), 30)
    steps = order(labels, 2, 0, without=(3, 7))
    assert steps.shape == (4, BATCH) and not np.isin(labels[steps], (3, 7)).any()
    first, second = steps[:2].ravel(), steps[2:].ravel()
    assert len(set(first)) == len(set(second)) == 200 and not np.array_equal(first, second)


def test_networks_of_a_program_have_starts_of_their_own_and_learn(address):
    parts = digits(address)
    labels = np.asarray(parts["test"]["labels"])
    steps = order(parts["train"]["labels"], 8, 0)
    said = logits(learned(several(2), (32,), parts["train"], steps, 0), parts["test"])
    assert said.shape == (2, len(labels), 10) and not np.array_equal(said[0], said[1])
    assert (wrong(said, labels) < 45).all()  # 90 by chance
    own = np.stack([steps, order(parts["train"]["labels"], 8, 1)], axis=1)
    first, second = logits(learned(compose(), (32,), parts["train"], own, 0), parts["test"])
    assert not np.array_equal(first, second)  # one start, and orders of their own


def test_the_bias_of_threes_is_raised_by_the_least_that_gives_the_least_error():
    labels = np.array([3, 3, 5, 1])
    said = np.zeros((4, 10))
    said[0, 5], said[1, 5], said[2, 5], said[3, 1] = 1.0, 2.45, 4.0, 9.0
    assert np.allclose(mnist_omitted_three.right(said[None], labels), 0.0)
    by = mnist_omitted_three.best_raise(said, labels)
    assert by == pytest.approx(2.5)  # beyond 4 the five would be a three
    corrected = mnist_omitted_three.raised(said[None], by)
    assert np.allclose(mnist_omitted_three.right(corrected, labels), 1.0) and wrong(corrected, labels)[0] == 0


def test_ten_networks_are_scored_beside_what_they_are_on_average():
    labels = np.array([0, 1, 1])
    said = np.random.default_rng(0).normal(size=(10, 3, 10))
    one, ten = mnist_ensemble.scored(said, labels)
    assert ten["log_likelihood"] > one["log_likelihood"]  # Jensen: the log of the mean is above the mean of the logs
    chances = np.exp(said) / np.exp(said).sum(-1, keepdims=True)
    assert ten["log_likelihood"] == pytest.approx(np.log(chances.mean(0)[np.arange(3), labels]).mean(), abs=1e-5)


@pytest.mark.parametrize("row", (mnist_omitted_three, mnist_distilled, mnist_ensemble))
def test_a_quick_row_is_measured_and_leaves_out_what_needs_the_whole(row, address, monkeypatch):
    monkeypatch.setattr(_mnist, "LARGE", (32, 32))
    for module in (mnist_omitted_three, mnist_distilled):
        monkeypatch.setattr(module, "SMALL", (16, 16))
    monkeypatch.setattr(mnist_ensemble, "WIDTHS", (16, 16))
    monkeypatch.setattr(mnist_ensemble, "MEMBERS", 2)
    found = row.reproduction.measure((0,), True, address)
    assert found.findings and all(np.isfinite(one.ours).all() for one in found.findings)
    assert not any(one.asked == "≥ 0.9" for one in found.findings)
