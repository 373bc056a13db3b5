"""Batches come in an order that only the seed decides, are shared over processes, and can be taken up anywhere."""

import json

import numpy as np
import pytest

from ft_jax.data import Dataset, batches, collate, evaluation_batches, zip_streams
from ft_jax.data.collate import of_one_length


def numbers(count):
    return Dataset({"x": np.arange(count), "text": [str(i) for i in range(count)]})


def drain(stream):
    return [batch["x"].tolist() for batch in stream]


def test_an_epoch_is_every_example_once_in_an_order_of_its_own():
    rows = drain(batches(numbers(12), 4, seed=5, epochs=3))
    epochs = [np.concatenate(rows[start : start + 3]).tolist() for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != list(range(12))


def test_the_order_is_the_seeds_alone():
    first = drain(batches(numbers(50), 4, seed=5, epochs=2))
    assert first == drain(batches(numbers(50), 4, seed=5, epochs=2, threads=0))
    assert first == drain(batches(numbers(50), 4, seed=5, epochs=2, threads=4, ahead=16))
    other = drain(batches(numbers(50), 4, seed=6, epochs=2))
    assert first != other and first[12:] != other[:12]


@pytest.mark.parametrize("taken", [0, 1, 7, 12, 20])
def test_resume_gives_the_same_batches(taken):
    def make():
        draw = lambda example, generator: {**example, "noise": generator.random(3)}  # noqa: E731
        return batches(numbers(50), 4, seed=2, epochs=2, transform=draw)

    stream = make()
    for _ in range(taken):
        next(stream)
    place = json.loads(json.dumps(stream.get_state()))
    expected = list(stream)
    again = make()
    next(again)
    again.set_state(place)
    found = list(again)
    assert len(found) == len(expected) == 24 - taken
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_a_place_in_other_data_is_refused():
    place = batches(numbers(50), 4).get_state()
    with pytest.raises(ValueError, match="examples 50 and now examples is 49"):
        batches(numbers(49), 4).set_state(place)
    with pytest.raises(ValueError, match="seed"):
        batches(numbers(50), 4, seed=1).set_state(place)


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("remainder", ["drop", "pad"])
def test_processes_share_the_batches_of_one(processes, remainder):
    options = {"seed": 3, "epochs": 2, "remainder": remainder}
    whole = list(batches(numbers(21), 8, **options))
    parts = [
        list(batches(numbers(21), 8 // processes, process=p, processes=processes, **options)) for p in range(processes)
    ]
    for number, batch in enumerate(whole):
        counts = batch.get("weights", np.ones(8)) > 0
        shares = [part[number] for part in parts]
        joined = np.concatenate([one["x"][one.get("weights", np.ones(len(one["x"]))) > 0] for one in shares])
        assert sorted(joined) == sorted(batch["x"][counts])
        np.testing.assert_array_equal(shares[1]["x"][: len(shares[1]["x"]) // 2], batch["x"][1 : 8 // 2 : processes])


def test_remainders_are_dropped_or_padded_with_weight_0():
    assert [len(rows) for rows in drain(batches(numbers(10), 4, epochs=2))] == [4, 4, 4, 4]
    padded = list(batches(numbers(10), 4, epochs=2, remainder="pad"))
    assert [batch["weights"].tolist() for batch in padded[:3]] == [[1] * 4, [1] * 4, [1, 1, 0, 0]]
    real = np.concatenate([batch["x"][batch["weights"] > 0] for batch in padded[:3]])
    assert sorted(real) == list(range(10))


def test_evaluation_is_in_order_and_can_be_repeated():
    parts = evaluation_batches(numbers(7), 3)
    assert len(parts) == 3
    for _ in range(2):
        assert drain(parts) == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert [batch["weights"].tolist() for batch in parts][-1] == [1.0, 0.0, 0.0]


def test_endless_streams_go_on():
    stream = batches(numbers(4), 4)
    assert stream.steps is None
    assert all(sorted(next(stream)["x"]) == [0, 1, 2, 3] for _ in range(50))


def test_grouping_by_length_keeps_every_example_and_saves_padding():
    sizes = np.random.default_rng(0).integers(1, 60, size=200)
    dataset = Dataset({"input_ids": [np.ones(size, int) for size in sizes], "index": np.arange(200)})

    def read(group, **options):
        stream = batches(dataset, 8, seed=1, length=range(8, 65, 8), group_by_length=group, **options)
        found = list(stream)
        return [batch["index"].tolist() for batch in found], sum(batch["input_ids"].size for batch in found)

    plain, grouped = read(1, epochs=1), read(8, epochs=1)
    assert sorted(np.concatenate(grouped[0])) == list(range(200))
    assert grouped[1] < 0.75 * plain[1]
    longest = [max(sizes[index] for index in indices) for indices in grouped[0][:8]]
    assert longest != sorted(longest)
    assert grouped == read(8, epochs=1, threads=0)
    first, second = read(8, epochs=2)[0][:25], read(8, epochs=2)[0][25:]
    assert first == grouped[0] and sorted(np.concatenate(second)) == list(range(200)) and second != first


@pytest.mark.parametrize("group", [1, 4])
def test_processes_give_their_rows_of_a_batch_one_shape(group):
    sizes = np.random.default_rng(0).integers(1, 60, size=64)
    dataset = Dataset({"input_ids": [np.ones(size, int) for size in sizes], "index": np.arange(64)})
    options = {"length": (8, 16, 32, 64), "epochs": 1, "group_by_length": group}
    whole = list(batches(dataset, 4, **options))
    halves = [list(batches(dataset, 2, process=process, processes=2, **options)) for process in range(2)]
    assert len({batch["input_ids"].shape for batch in whole}) > 1 or group == 1
    for batch, *parts in zip(whole, *halves, strict=True):
        assert [part["input_ids"].shape[1] for part in parts] == [batch["input_ids"].shape[1]] * 2
        for process, part in enumerate(parts):
            np.testing.assert_array_equal(part["index"], batch["index"][process::2])
    late = Dataset({"text": ["a"] * 8})
    stream = batches(late, 2, processes=2, transform=lambda example, _: {"input_ids": np.ones(3)})
    with pytest.raises(ValueError, match="pass length= as one number"):
        next(stream)


def test_a_fault_in_the_transform_reaches_the_reader():
    def fail(example, generator):
        raise ValueError(f"example {example['text']} is bad")

    with pytest.raises(ValueError, match="example . is bad"):
        next(batches(numbers(4), 2, transform=fail))


@pytest.mark.parametrize(
    ("count", "size", "options", "said"),
    [
        (0, 2, {}, "no examples"),
        (3, 4, {}, "needs as many examples and the data set has 3"),
        (3, 2, {"processes": 2}, "a batch of 4"),
        (3, 0, {}, "batch_size is 0"),
        (3, 1, {"process": 2, "processes": 2}, "process 2 is none of 2"),
        (3, 1, {"remainder": "keep"}, "'keep'"),
    ],
)
def test_impossible_settings_are_refused(count, size, options, said):
    with pytest.raises(ValueError, match=said):
        batches(numbers(count), size, **options)


def test_buckets_give_few_shapes_and_hide_nothing():
    generator = np.random.default_rng(0)
    ids = [generator.integers(1, 99, size=size) for size in generator.integers(1, 60, size=64)]
    dataset = Dataset({"input_ids": ids, "index": np.arange(64)})
    seen = 0
    shapes = set()
    for batch in batches(dataset, 4, length=(16, 32, 64), padding=7, epochs=1, group_by_length=4):
        shapes.add(batch["input_ids"].shape)
        for row, mask, index in zip(batch["input_ids"], batch["attention_mask"], batch["index"], strict=True):
            np.testing.assert_array_equal(row[mask > 0], ids[index])
            assert (row[mask == 0] == 7).all() and (np.diff(mask) <= 0).all()
            seen += 1
    assert seen == 64 and shapes <= {(4, 16), (4, 32), (4, 64)} and len(shapes) > 1
    with pytest.raises(ValueError, match="longer than the 32 of a row"):
        list(batches(dataset, 4, length=(16, 32), epochs=1))


def test_chosen_and_rejected_are_padded_to_one_length():
    def part(size):
        return {"input_ids": np.ones(size), "labels": np.ones(size), "weights": np.ones(size)}

    examples = [{"chosen": part(3), "rejected": part(5)}, {"chosen": part(9), "rejected": part(2)}]
    batch = collate(examples, length=(8, 16))
    assert batch["chosen"]["input_ids"].shape == batch["rejected"]["input_ids"].shape == (2, 16)
    assert batch["rejected"]["labels"][1].tolist() == [1, 1] + [-1] * 14
    (padded,) = batches(
        Dataset({name: [one[name] for one in examples] for name in examples[0]}), 4, epochs=1, remainder="pad"
    )
    assert not padded["chosen"]["weights"][2:].any() and padded["chosen"]["weights"][:2].sum() == 12


def test_types_are_those_of_the_device():
    example = {
        "images": np.zeros((2, 2, 1), np.float64),
        "labels": 3,
        "raw": np.zeros(2, np.uint8),
        "text": "x",
        "id": None,
    }
    batch = collate([example])
    assert {name: str(value.dtype) for name, value in batch.items()} == {
        "images": "float32",
        "labels": "int32",
        "raw": "uint8",
    }
    with pytest.raises(ValueError, match="field 'x' has values of the shapes"):
        collate([{"x": np.zeros(2)}, {"x": np.zeros(3)}])


def test_every_shape_of_a_stream_is_told_before_it_runs():
    sizes = [3, 5, 9, 2]
    dataset = Dataset({"input_ids": [np.arange(size) for size in sizes], "labels": np.arange(4)})
    stream = batches(dataset, 2, length=(4, 8, 16), epochs=3)
    place = stream.get_state()
    told = {batch["input_ids"].shape for batch in stream.every_shape()}
    assert told == {(2, 4), (2, 8), (2, 16)} and stream.get_state() == place
    assert {batch["input_ids"].shape for batch in stream} <= told
    held_out = evaluation_batches(dataset, 3, length=(4, 8, 16))
    assert {batch["weights"].shape for batch in held_out.every_shape()} == {(3,)}
    assert {batch["input_ids"].shape for batch in held_out} <= {b["input_ids"].shape for b in held_out.every_shape()}
    both = zip_streams(stream, other=batches(dataset, 1, length=(5, 9)))
    found = {(batch["input_ids"].shape[1], batch["other"]["input_ids"].shape[1]) for batch in both.every_shape()}
    assert found == {(a, b) for a in (4, 8, 16) for b in (5, 9)}


def test_batches_of_other_lengths_are_padded_to_one_as_they_would_have_been():
    examples = [{"input_ids": np.arange(1, n), "labels": np.arange(1, n), "weights": np.ones(n - 1)} for n in (3, 5, 4)]
    made = of_one_length([{**collate([one]), "part": collate([one])} for one in examples], padding=7)
    for batch, example in zip(made, examples, strict=True):
        whole = collate([example], length=4, padding=7)
        for field, value in whole.items():
            np.testing.assert_array_equal(batch[field], value)
            np.testing.assert_array_equal(batch["part"][field], value)
