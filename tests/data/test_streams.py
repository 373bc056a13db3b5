"""Streams side by side, and on the devices, keep the place of what was handed out."""

import json

import jax
import numpy as np
import pytest

from ft_jax.data import Dataset, batches, prefetch_to_device, zip_streams


def stream(count, size, **options):
    return batches(Dataset({"x": np.arange(count)}), size, **options)


def test_parts_have_sizes_and_lengths_of_their_own():
    both = zip_streams(stream(10, 2, epochs=2), unlabelled=stream(9, 3, epochs=1, seed=4), replay=stream(50, 5))
    found = list(both)
    assert len(found) == 10
    assert {len(batch["unlabelled"]["x"]) for batch in found} == {3} and len(found[0]["replay"]["x"]) == 5
    rounds = [sorted(np.concatenate([b["unlabelled"]["x"] for b in found[i : i + 3]])) for i in (0, 3, 6)]
    assert rounds == [list(range(9))] * 3


@pytest.mark.parametrize("taken", [0, 1, 4, 7])
def test_resume_of_zipped_streams_gives_the_same_batches(taken):
    def make():
        return zip_streams(stream(10, 2, seed=1, epochs=2), unlabelled=stream(9, 3, seed=2, epochs=1))

    both = make()
    for _ in range(taken):
        next(both)
    place = json.loads(json.dumps(both.get_state()))
    plain = lambda batch: (batch["x"].tolist(), batch["unlabelled"]["x"].tolist())  # noqa: E731
    expected = [plain(batch) for batch in both]
    again = make()
    again.set_state(place)
    assert [plain(batch) for batch in again] == expected and len(expected) == 10 - taken


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_place_on_device_is_that_of_what_was_handed_out(size):
    host = [batch["x"].tolist() for batch in stream(40, 4, seed=9, epochs=1)]
    ahead = prefetch_to_device(stream(40, 4, seed=9, epochs=1), size)
    for number in range(3):
        assert next(ahead)["x"].tolist() == host[number]
    place = ahead.get_state()
    assert [batch["x"].tolist() for batch in ahead] == host[3:]
    ahead.set_state(place)
    assert [batch["x"].tolist() for batch in ahead] == host[3:]
    fresh = stream(40, 4, seed=9, epochs=1)
    fresh.set_state(place)
    assert [batch["x"].tolist() for batch in fresh] == host[3:]


def test_batches_are_sharded_over_the_devices():
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    batch = next(prefetch_to_device(stream(64, 16, shuffle=False), sharding=sharding))
    assert batch["x"].sharding == sharding
    np.testing.assert_array_equal(batch["x"], np.arange(16))


def test_misuse_is_named():
    with pytest.raises(ValueError, match="size=0"):
        prefetch_to_device(stream(4, 2), 0)
    with pytest.raises(ValueError, match="'main'"):
        zip_streams(stream(4, 2), main=stream(4, 2))
