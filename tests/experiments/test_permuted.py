"""Digits whose pixels each task shuffles: the rows of permuted MNIST in ``ft-jax reproduce``."""

import numpy as np
import optax
import pytest

from experiments.reproduce import permuted_mnist_ewc
from experiments.reproduce._permuted import accuracies, digits
from ft_jax import incremental

SETTING = {"tasks": 2, "widths": (32,), "rate": 0.1, "optimiser": optax.sgd, "batch": 10}


@pytest.fixture
def address(tmp_path):
    """Digits of two kinds, told by which half of the picture is white."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400).astype(np.uint8)
    images = random.integers(0, 216, (400, 28, 28)).astype(np.uint8)
    images[labels == 0, :14] += 39
    images[labels == 1, 14:] += 39
    np.savez(tmp_path / "digits.npz", images=images, labels=labels)
    return f"mnist:{tmp_path / 'digits.npz'}"


def test_pictures_are_rows_of_numbers_in_their_splits(address):
    parts = digits(address)
    assert parts["train"]["images"].shape == (320, 784) and parts["test"]["labels"].shape == (80,)
    assert 0.7 < float(parts["train"]["images"].max()) <= 1.0


def test_each_task_is_learned_and_measured_after_each(address):
    table = accuracies(None, address, 0, **SETTING)
    assert table.shape == (2, 2) and table[0, 0] > 0.95 and table[1, 1] > 0.95
    np.testing.assert_array_equal(table, accuracies(None, address, 0, **SETTING))
    short = accuracies(None, address, 0, **SETTING, examples=10)  # one step
    assert short[0, 0] < 0.9


def test_a_penaltys_weight_is_chosen_on_digits_that_are_not_learned_from(address):
    asked = accuracies(None, address, 0, **SETTING, passes=3, held_out=True, dropout=0.1)
    np.testing.assert_array_equal(asked * 32, np.round(asked * 32))  # a tenth of 320
    assert asked[0, 0] > 0.8
    found = [accuracies(incremental.ewc(), address, 0, **SETTING, shown=20, strength=weight) for weight in (0.0, 10.0)]
    np.testing.assert_array_equal(found[0], accuracies(None, address, 0, **SETTING))
    assert (found[1] != found[0]).any()


def test_ewc_is_measured_beside_naive_training(address, monkeypatch):
    for name, value in {"QUICK": 2, "SHOWN": 20, "STRENGTHS": (1.0,), "BATCH": 20}.items():
        monkeypatch.setattr(permuted_mnist_ewc, name, value)
    found = permuted_mnist_ewc.measure((0,), True, address)
    assert len(found.findings) == 1 and np.isfinite(found.findings[0].ours).all() and len(found.pictures) == 1
