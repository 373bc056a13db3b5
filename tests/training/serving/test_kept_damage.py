"""Damage to the model that a run keeps is noticed before it is used, and its files are for the same people."""

import os
import random
import shutil
import stat

import pytest
from training.serving import small_runs

from ft_jax.training import Budget, Experiment
from ft_jax.training.seal import Damaged
from ft_jax.training.serving import load_run
from ft_jax.training.serving.trees import put_together
from ft_jax.training.specs import Images, Perceptron

MADE = Experiment("digits", Perceptron(widths=(8,)), Images(), budget=Budget(steps=1, batch_size=8))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    before = os.umask(0o027)
    try:
        return small_runs.run(MADE, tmp_path_factory.mktemp("runs") / "digits").run
    finally:
        os.umask(before)


def test_every_flipped_bit_of_a_kept_model_is_noticed(run, tmp_path):
    draw, copy = random.Random(0), tmp_path / "run"
    files = [path.relative_to(run) for path in (run / "model").rglob("*") if path.is_file()]
    for file in files * 8:
        shutil.copytree(run, copy)
        content = bytearray((copy / file).read_bytes())
        bit = draw.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        (copy / file).write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged|not JSON|twice|has format"):
            load_run(copy)
        shutil.rmtree(copy)
    assert {file.name for file in files} >= {"model.json", "weights.safetensors"}


def test_a_file_that_is_missing_from_a_kept_model_is_named(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "model" / "weights.safetensors").unlink()
    with pytest.raises(Damaged, match=r"is damaged, for its file weights.safetensors is missing; bring it back"):
        load_run(tmp_path / "run")


def test_the_files_and_folders_of_a_kept_model_are_for_the_same_people(run):
    modes = {str(path.relative_to(run)): oct(stat.S_IMODE(path.stat().st_mode)) for path in run.rglob("*")}
    wrong = {name: mode for name, mode in modes.items() if mode not in ("0o640", "0o750") and name != ".lock"}
    assert not wrong and "model/weights.safetensors" in modes


@pytest.mark.parametrize("asked", ["os:stat_result", "ft_jax.assets.cache:Path", "ft_jax.cli:main", "ft_jax.core:jax"])
def test_a_kept_model_builds_dataclasses_of_the_package_alone(asked):
    with pytest.raises(ValueError, match=r"no part of ft_jax|no dataclass of ft_jax|can't be read"):
        put_together({"type": asked, "of": {}}, {})


def test_a_tree_in_a_tree_without_end_is_refused():
    deep = {"value": 1}
    for _ in range(3000):
        deep = {"dict": None, "of": {"a": deep}}
    with pytest.raises(ValueError, match="the tree can't be read"):
        put_together(deep, {})
