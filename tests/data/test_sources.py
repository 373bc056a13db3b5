"""Real data sets have the counts that their pages state, fixed splits, and the columns that batches take."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from ft_jax import data

LABELLED = {"movies": 10_072, "tweets": 3_432, "amazon": 2_985, "news": 2_970}
SENTENCES = {"movies": 10_605, "tweets": 4_200, "amazon": 3_708, "news": 5_190}


@pytest.mark.parametrize("domain", data.DOMAINS)
def test_sentiment_domains_have_their_published_sizes(domain):
    labelled, everything = data.sentiment(domain), data.unlabelled(domain)
    assert (len(labelled), len(everything)) == (LABELLED[domain], SENTENCES[domain])
    ratings = labelled.columns["ratings"]
    assert np.all(np.abs(ratings) >= 0.5) and np.all(np.abs(everything.columns["ratings"]) <= 4)
    np.testing.assert_array_equal(labelled.columns["labels"], (ratings > 0).astype(int))


def test_sentiment_splits_are_disjoint_cover_everything_and_stay():
    parts = {split: data.sentiment("news", split) for split in ("train", "validation", "test")}
    texts = {split: set(part.columns["text"]) for split, part in parts.items()}
    assert sum(len(part) for part in parts.values()) == LABELLED["news"]
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"]
    assert {split: len(part) for split, part in parts.items()} == {"train": 2367, "validation": 304, "test": 299}
    unlabelled = set(data.unlabelled("news", "train").columns["text"])
    assert texts["train"] < unlabelled and not texts["test"] & unlabelled


def test_sentiment_examples_are_the_published_sentences():
    example = data.load("sentiment:amazon")[0]
    assert (example["id"], example["labels"]) == ("1_1", 0)
    assert example["text"] == "troubleshooting ad-2500 and ad-2600 no picture scrolling b/w."
    assert example["ratings"] == np.float32(-0.9)


@pytest.mark.parametrize(
    ("address", "split", "said"),
    [
        ("sentiment:books", None, "no sentiment domain 'books'; take one of movies"),
        ("sentiment:movies", "dev", "no split 'dev'; take one of train"),
        ("digits", "dev", "no split 'dev'"),
        ("mnist", "validation", "no split 'validation'"),
    ],
)
def test_a_wrong_name_lists_the_right_ones(address, split, said):
    with pytest.raises(ValueError, match=said):
        data.load(address, split)


def test_digits_are_scaled_images_of_all_classes():
    everything = data.digits()
    assert len(everything) == 1797 and everything.columns["images"].dtype == np.float32
    assert everything.columns["images"].min() == 0 and everything.columns["images"].max() == 1
    sizes = {split: len(data.digits(split)) for split in ("train", "validation", "test")}
    assert sum(sizes.values()) == 1797 and sizes["train"] > 1350
    assert set(data.digits("test").columns["labels"]) == set(range(10))


def test_mnist_of_a_file_is_its_first_and_last_parts(tmp_path):
    images = np.arange(50, dtype=np.uint8)[:, None, None] * np.ones((1, 28, 28), np.uint8)
    np.savez(tmp_path / "m.npz", images=images, labels=np.arange(50) % 10)
    train, test = data.load(f"mnist:{tmp_path / 'm.npz'}", "train"), data.load(f"mnist:{tmp_path / 'm.npz'}", "test")
    assert (len(train), len(test), len(data.mnist(tmp_path / "m.npz"))) == (40, 10, 50)
    assert test[0]["images"].shape == (28, 28, 1) and test[0]["images"][0, 0, 0] == np.float32(40 / 255)
    assert test[3]["labels"] == 3


RECORDS = [{"text": f"row, {i}", "label": "yes" if i % 3 else "no", "score": i / 2} for i in range(60)]


def _write(folder, ending):
    path = folder / f"rows.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    elif ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(RECORDS), path)
    else:
        rows = [f'"{record["text"]}",{record["label"]},{record["score"]}' for record in RECORDS]
        path.write_text("text,label,score\n" + "\n".join(rows) + "\n")
    return path


def test_the_same_rows_are_read_from_every_format(tmp_path):
    read = {ending: data.load(_write(tmp_path, ending)) for ending in ("jsonl", "csv", "parquet")}
    for dataset in read.values():
        assert dataset.columns["text"] == [record["text"] for record in RECORDS]
        assert dataset.classes == ("no", "yes")
        np.testing.assert_array_equal(dataset.columns["labels"], [int(i % 3 > 0) for i in range(60)])
        np.testing.assert_array_equal(dataset.columns["score"], [record["score"] for record in RECORDS])


def test_file_splits_don_t_depend_on_the_order_of_rows(tmp_path):
    path = _write(tmp_path, "jsonl")
    before = {split: set(data.load(path, split).columns["text"]) for split in ("train", "validation", "test")}
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert {split: set(data.load(path, split).columns["text"]) for split in before} == before
    assert sum(map(len, before.values())) == 60 and len(before["train"]) > 40


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "x"}\nnot json\n', r"a\.jsonl line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is a list"),
        ("a.jsonl", '{"text": "x"}\n{"other": 1}\n', r"a\.jsonl line 2, column 'text' has no value"),
        ("a.jsonl", "\n", "has no examples"),
        ("a.csv", "a,b\n1,2,3\n", "not readable as csv"),
        ("a.csv", "a,b\n", "has no examples"),
        ("a.parquet", "nonsense", "not readable as parquet"),
        ("a.npz", "nonsense", "not readable as npz"),
        ("a.txt", "x", "no known format"),
    ],
)
def test_a_damaged_file_is_named_with_its_fault(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=said) as caught:
        data.load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"no file or folder 'absent\.jsonl'"):
        data.load("absent.jsonl")
