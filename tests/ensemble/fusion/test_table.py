"""Members and fusions side by side: nothing is fitted on what it is scored on, or on what was fitted before."""

import numpy as np
import pytest

from ft_jax.ensemble.fusion import compare
from ft_jax.ensemble.fusion.table import _split


def noise(rows=1200, classes=3, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(4, rows, classes)) * 3, generator.integers(0, classes, rows)


def test_noise_is_not_fitted_to_anything_that_is_scored():
    """Members that know nothing: whatever is fitted, calibrated log-likelihoods are at most that of guessing."""
    logits, labels = noise()
    found = compare(list("abcd"), logits, labels, by=["mean", "weighted", "stack"], calibrate="vector", conformal="aps")
    for row in found.rows:
        assert row.scores.log_likelihood < -np.log(3) + 0.01
    for name, (covered, size) in found.sets.items():
        assert 0.84 < covered < 0.96 and size > 2.4, name


def test_each_stage_has_its_own_examples_with_every_class():
    labels = np.repeat([0, 1, 2], [60, 30, 90])
    parts, judge = _split(labels, 0.5, ["fuse", "calibrate", "conform"], seed=0)
    together = np.concatenate([*parts.values(), judge])
    assert np.array_equal(np.sort(together), np.arange(180)) and len(judge) == 90
    for rows in parts.values():
        assert np.bincount(labels[rows]).tolist() == [10, 5, 15]


def test_members_of_other_shapes_are_refused():
    logits, labels = noise()
    with pytest.raises(ValueError, match=r"3 members have logits \(4, 1200, 3\)"):
        compare(list("abc"), logits, labels)


def test_members_that_are_one_are_refused():
    logits, labels = noise()
    with pytest.raises(ValueError, match="c predicts the same as another member to the last bit"):
        compare(list("abc"), np.stack([logits[0], logits[1], logits[0]]), labels)
