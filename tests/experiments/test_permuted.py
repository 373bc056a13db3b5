"""Digits whose pixels each task shuffles: the rows of permuted MNIST in ``ft-jax reproduce``."""

import numpy as np
import optax
import pytest

from experiments.reproduce._permuted import accuracies, digits

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
