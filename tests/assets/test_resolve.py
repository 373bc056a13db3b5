"""Addresses that are not packages: paths, the hub's cache, and text that is no address."""

import os
import subprocess
import sys

import pytest

from ft_jax import assets

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path):
    """A hub cache as huggingface_hub lays it out, and a way to resolve in a process that is offline with it."""
    repository = tmp_path / "hub" / "models--org--tiny"
    snapshot = repository / "snapshots" / REVISION
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "aa").write_text('{"hidden_size": 4}')
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/aa")

    def resolve(address: str) -> subprocess.CompletedProcess:
        code = f"from ft_jax import assets; print(assets.resolve({address!r}))"
        environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)

    return snapshot, resolve


def test_a_hub_model_in_the_cache_needs_no_network(hub):
    snapshot, resolve = hub
    assert resolve("hf://org/tiny").stdout.strip() == str(snapshot)
    assert resolve(f"hf://org/tiny@{REVISION}/config.json").stdout.strip() == str(snapshot / "config.json")


def test_a_hub_model_that_is_not_there_says_what_to_do(hub):
    _, resolve = hub
    result = resolve("hf://org/absent")
    assert result.returncode and result.stdout == ""
    last = result.stderr.strip().splitlines()[-1]
    assert "needs org/absent" in last and "ft-jax fetch hf://org/absent" in last and "HF_HOME" in last


def test_a_path_is_itself(tmp_path):
    file = tmp_path / "weights"
    file.write_text("w")
    assert assets.resolve(file) == assets.resolve(str(file)) == file


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("pkg://tiny/model", "NAME==VERSION"),
        ("pkg://tiny==1.0/a+other", "no member|needs tiny"),
        ("hf://org", "organisation/model"),
        ("gs://bucket/x", "no known scheme"),
        ("tfds:mnist", r"ft_jax\.data\.load"),
        ("no/such/file", "there is no file or folder 'no/such/file'"),
    ],
)
def test_a_wrong_address_is_answered_with_one_sentence(address, said, cache, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        assets.resolve(address)
    assert "\n" not in str(caught.value)
