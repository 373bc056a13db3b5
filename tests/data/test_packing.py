"""Packed rows hold every sequence once, whole, and a model that keeps segments apart gives the same loss on them."""

import jax
import numpy as np
import pytest

from ft_jax.core.losses import cross_entropy
from ft_jax.data import Dataset, collate, pack
from ft_jax.data.completions import shifted
from ft_jax.data.packing import best_fit
from ft_jax.models import tiny_decoder


def sequences(count, longest, seed=0):
    generator = np.random.default_rng(seed)
    records = []
    for _ in range(count):
        ids = generator.integers(1, 32, size=generator.integers(2, longest + 1))
        records.append(shifted(ids, generator.random(len(ids)) < 0.7))
    return Dataset({name: [record[name] for record in records] for name in records[0]})


def test_every_sequence_is_packed_once_and_whole():
    dataset = sequences(200, 30)
    packed = pack(dataset, 64, padding=99)
    found = []
    for row in packed:
        for segment in range(1, row["segment_ids"].max() + 1):
            place = np.flatnonzero(row["segment_ids"] == segment)
            assert np.array_equal(place, np.arange(place[0], place[-1] + 1))
            assert np.array_equal(row["positions"][place], np.arange(len(place)))
            found.append(tuple(tuple(row[name][place].tolist()) for name in ("input_ids", "labels", "weights")))
        empty = row["segment_ids"] == 0
        assert (row["input_ids"][empty] == 99).all() and (row["labels"][empty] == -1).all()
        assert not row["weights"][empty].any()
    given = [tuple(tuple(example[name].tolist()) for name in ("input_ids", "labels", "weights")) for example in dataset]
    assert sorted(found) == sorted(given)


def test_no_target_crosses_from_one_segment_to_the_next():
    for row in pack(sequences(50, 20), 64):
        same = np.append(row["segment_ids"][1:] == row["segment_ids"][:-1], False)
        assert not row["weights"][~same].any()
        counts = row["weights"] > 0
        assert np.array_equal(row["labels"][counts], np.roll(row["input_ids"], -1)[counts])


def test_few_tokens_are_padding():
    dataset = sequences(500, 40)
    packed = pack(dataset, 128)
    tokens = sum(len(ids) for ids in dataset.columns["input_ids"])
    assert tokens / packed.columns["input_ids"].size > 0.97


def test_packed_equals_separate():
    model = tiny_decoder(jax.random.key(0), layers=1)
    dataset = sequences(12, 12)
    packed, separate = collate(list(pack(dataset, 24))), collate(list(dataset))

    @jax.jit
    def total(batch):
        outputs = model.apply(model.params, batch, None)
        return cross_entropy(outputs, batch["labels"], batch["weights"]) * batch["weights"].sum()

    assert len(packed["labels"]) < len(separate["labels"])
    np.testing.assert_allclose(total(packed), total(separate), rtol=1e-5)


def test_bins_are_never_overfull_and_hold_every_item():
    generator = np.random.default_rng(1)
    for _ in range(20):
        sizes = generator.integers(1, 50, size=100).tolist()
        bins = best_fit(sizes, 50)
        assert sorted(item for items in bins for item in items) == list(range(100))
        assert all(sum(sizes[item] for item in items) <= 50 for items in bins)
        # Best-fit decreasing needs at most 11/9 of the best number of bins, and one more.
        assert len(bins) <= 11 / 9 * np.ceil(sum(sizes) / 50) * 1.25 + 1


def test_a_sequence_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="tokens and the model takes 8"):
        pack(sequences(20, 30), 8)
