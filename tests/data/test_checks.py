"""Bad input is answered with one sentence that names the thing, the value and the remedy."""

import numpy as np
import pytest

from ft_jax import data
from ft_jax.data import Computed, Dataset


def test_good_input_passes():
    dataset = Dataset({"labels": np.array([0, 1]), "x": np.ones((2, 3)), "input_ids": [np.arange(3), np.arange(5)]})
    assert data.check_labels(dataset, 2) is dataset
    assert data.check_finite(dataset) is dataset
    assert data.check_lengths(dataset, 5) is dataset
    assert data.check_columns(dataset, ["x", "labels"]) is dataset
    assert data.check_divides(64, 8) == 8
    assert data.check_batch({"x": np.ones(3), "part": {"y": np.ones(2)}}, ["x"])


@pytest.mark.parametrize(
    ("check", "error", "said"),
    [
        (lambda: data.check_not_empty(Dataset({"x": []})), ValueError, "no examples; give it at least one"),
        (lambda: data.check_columns(Dataset({"x": [1]}), ["text"]), KeyError, "no column 'text'; it has x, so rename"),
        (
            lambda: data.check_labels(Dataset({"labels": np.r_[np.zeros(12, int), 7]}, ("no", "yes"))),
            ValueError,
            "label 7 at example 12 is outside 0…1; correct it, or give the model 8 classes",
        ),
        (lambda: data.check_labels(Dataset({"labels": np.array([-1])}), 2), ValueError, "label -1 at example 0"),
        (lambda: data.check_labels(Dataset({"labels": np.array([0.5])}), 2), ValueError, "type float64"),
        (lambda: data.check_labels(Dataset({"labels": np.array([0])})), ValueError, "names no classes"),
        (
            lambda: data.check_labels(Dataset({"labels": Computed(5, lambda i: i)}), 4),
            ValueError,
            "label 4 at example 4",
        ),
        (
            lambda: data.check_finite(Dataset({"x": np.array([[1, 2], [3, np.nan]])})),
            ValueError,
            "column 'x' holds nan at example 1",
        ),
        (lambda: data.check_finite(Dataset({"x": np.array([-np.inf])})), ValueError, "holds -inf at example 0"),
        (
            lambda: data.check_lengths(Dataset({"input_ids": [np.ones(3), np.ones(600)]}), 512),
            ValueError,
            "example 1 has 600 tokens and the model takes 512",
        ),
        (lambda: data.check_divides(30, 8), ValueError, "does not divide over 8 devices; make batch_size 24 or 32"),
        (lambda: data.check_divides(3, 8), ValueError, "make batch_size 8"),
        (lambda: data.check_batch({"x": np.ones(1)}, ["labels"]), KeyError, "no field 'labels'; it has x"),
        (
            lambda: data.check_batch({"part": {"y": np.array([0, np.inf])}}),
            ValueError,
            "field 'y' holds a value that is not finite at row 1",
        ),
    ],
)
def test_bad_input_is_named(check, error, said):
    with pytest.raises(error) as caught:
        check()
    message = str(caught.value.args[0])
    assert said in message and "\n" not in message
