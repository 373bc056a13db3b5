"""Data sets of tensorflow-datasets are read through array_record, and TensorFlow is never imported."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data.tiny_shapes import TinyShapes, image

from ft_jax import data
from ft_jax.data.tfds import parse_tfds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    TinyShapes(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_examples_are_those_that_were_prepared(folder):
    dataset = data.from_tfds("tfds:tiny_shapes:train", data_dir=folder)
    assert len(dataset) == 20 and dataset.classes == ("even", "odd")
    seen = {}
    for example in dataset:
        index = int(example["text"].removeprefix("número "))
        np.testing.assert_array_equal(example["images"], image(index))
        assert example["labels"] == index % 2
        seen[index] = True
    assert sorted(seen) == list(range(20))


def test_slices_and_splits_are_tfds_own(folder, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    assert len(data.load("tfds:tiny_shapes:1.0.0", split="train[:50%]")) == 10
    assert len(data.load("tfds:tiny_shapes", split="test")) == 5
    assert len(data.load("tfds:tiny_shapes:train+test")) == 25
    with pytest.raises(ValueError, match="take one of train, test"):
        data.load("tfds:tiny_shapes", split="validation")
    with pytest.raises(ValueError, match="names no split"):
        data.load("tfds:tiny_shapes")


def test_batches_are_read_from_the_files(folder):
    dataset = data.from_tfds("tfds:tiny_shapes", "train", folder)
    batch = next(data.batches(dataset, 8, seed=3))
    assert batch["images"].shape == (8, 4, 4, 1)
    np.testing.assert_array_equal(batch["labels"], batch["images"][:, 0, 0, 0] % 2)
    assert "text" not in batch


def test_no_tensorflow_is_imported(folder, tmp_path):
    # A TensorFlow that says when it is imported: where none is installed, its absence would show nothing.
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("print('imported TensorFlow')")
    code = """
from ft_jax import data
batch = next(data.batches(data.load("tfds:tiny_shapes:train"), 4))
print(batch["images"].shape)
"""
    environment = os.environ | {"TFDS_DATA_DIR": str(folder), "PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == "(4, 4, 4, 1)", result.stdout + result.stderr


def test_a_set_that_is_not_prepared_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="needs the TFDS data set 'no_such_set'.*TFDS_DATA_DIR") as caught:
        data.from_tfds("tfds:no_such_set", "train", Path(tmp_path))
    assert "\n" not in str(caught.value)


def test_addresses_tell_versions_from_splits():
    assert parse_tfds("tfds:mnist:train") == ("mnist", "train")
    assert parse_tfds("tfds:glue/sst2:2.0.0:train[:5%]") == ("glue/sst2:2.0.0", "train[:5%]")
    assert parse_tfds("tfds:mnist") == ("mnist", None)
