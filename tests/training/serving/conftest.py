"""What the tests of a folder's model begin with, once a file."""

import pytest
from training.serving import small_runs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def encoder(place):
    return small_runs.encoder_folder(place / "encoder")


@pytest.fixture(scope="module")
def csv(place):
    return small_runs.texts(place / "reviews.csv")
