"""A data set's operations give new sets and leave the old one alone, whatever kind its columns are."""

import numpy as np
import pytest

from ft_jax.data import Computed, Dataset, concatenate


@pytest.fixture
def dataset():
    columns = {"x": np.arange(6), "text": list("abcdef"), "late": Computed(6, lambda index: np.float32(index * 10))}
    return Dataset(columns, ("no", "yes"))


def test_an_example_is_one_value_of_every_column(dataset):
    assert dataset[4] == {"x": 4, "text": "e", "late": 40.0}
    assert dataset[-1]["text"] == "f"
    with pytest.raises(IndexError):
        dataset[6]


def test_computed_columns_are_read_only_when_asked_for():
    asked = []
    dataset = Dataset({"x": Computed(100, lambda index: asked.append(index) or index)})
    part = dataset.take(slice(50, None)).take([3, 1])
    assert asked == []
    assert [part[0]["x"], part[1]["x"]] == [53, 51] and asked == [53, 51]


def test_operations_agree_with_their_plain_meaning(dataset):
    assert dataset.take(2).columns["text"] == ["a", "b"]
    assert [example["late"] for example in dataset.take([5, 0])] == [50.0, 0.0]
    assert dataset.filter(lambda example: example["x"] % 2 == 1).columns["text"] == ["b", "d", "f"]
    assert list(dataset.rename(sentence="text").columns) == ["x", "sentence", "late"]
    assert list(dataset.select("late").columns) == ["late"]
    mapped = dataset.map(lambda example: {"y": example["x"] ** 2, "tokens": np.arange(example["x"])})
    np.testing.assert_array_equal(mapped.columns["y"], np.arange(6) ** 2)
    assert [len(tokens) for tokens in mapped.columns["tokens"]] == list(range(6))
    assert list(dataset.columns) == ["x", "text", "late"] and mapped.classes == ("no", "yes")


def test_concatenation_is_one_after_the_other(dataset):
    joined = concatenate([dataset.take(2), dataset.take([5, 4, 3]), dataset.take(1)])
    assert [example["text"] for example in joined] == ["a", "b", "f", "e", "d", "a"]
    assert [example["late"] for example in joined] == [0, 10, 50, 40, 30, 0]
    with pytest.raises(ValueError, match="different columns"):
        concatenate([dataset, dataset.select("x")])


def test_splits_keep_equal_values_together_and_ignore_the_rest():
    texts = [f"sentence {index % 400}" for index in range(800)]
    parts = Dataset({"text": texts}).split({"a": 0.7, "b": 0.3}, by="text")
    seen = {name: set(part.columns["text"]) for name, part in parts.items()}
    assert not seen["a"] & seen["b"] and len(seen["a"] | seen["b"]) == 400
    assert 250 < len(seen["a"]) < 310
    fewer = Dataset({"text": texts[:30]}).split({"a": 0.7, "b": 0.3}, by="text")
    assert set(fewer["a"].columns["text"]) <= seen["a"]


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda d: Dataset({}), ValueError, "at least one column"),
        (lambda d: Dataset({"a": [1], "b": [1, 2]}), ValueError, "different lengths"),
        (lambda d: d.rename(y="z"), KeyError, "no column 'z'"),
        (lambda d: d.select("z"), KeyError, "it has x, text, late"),
        (lambda d: d.split({"a": 0.5}), ValueError, "sum to 0.5"),
        (lambda d: d.encode_labels("text", ("a", "b")), ValueError, "label 'c' at example 2"),
    ],
)
def test_misuse_is_named(dataset, make, error, said):
    with pytest.raises(error, match=said):
        make(dataset)
