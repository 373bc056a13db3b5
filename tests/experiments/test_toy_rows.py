"""MNIST-1D's table and GradNorm's toy in ``ft-jax reproduce``."""

import jax
import numpy as np
import pytest

from experiments.reproduce import gradnorm_toy, mnist1d_table


def drawn(rows, random):
    labels = random.integers(0, 10, rows).astype(np.int32)
    signal = random.normal(size=(rows, 40)).astype(np.float32)
    signal[np.arange(rows), 4 * labels] += 5
    return {"signal": signal, "labels": labels}


@pytest.fixture
def data():
    """Signals with a peak where their class is."""
    random = np.random.default_rng(0)
    return {"train": drawn(400, random), "test": drawn(100, random)}


def test_the_networks_are_as_large_as_the_authors():
    counts = {
        name: sum(leaf.size for leaf in jax.tree.leaves(build(jax.random.key(0))))
        for name, build in mnist1d_table.NETWORKS.items()
    }
    assert counts == {"logistic": 410, "perceptron": 15210, "convolutional": 5210}  # as their notebook prints


def test_windows_make_the_convolution_of_xla():
    params = mnist1d_table.convolutional(jax.random.key(0))
    signal = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    x, numbers = signal[..., None], ("NWC", "WIO", "NWC")
    for name in ("one", "two", "three"):
        x = jax.lax.conv_general_dilated(x, params[name]["kernel"], (2,), ((1, 1),), dimension_numbers=numbers)
        x = np.maximum(x + params[name]["bias"], 0)
    found = mnist1d_table.apply(params, {"signal": signal}, None).hidden
    np.testing.assert_allclose(found, np.swapaxes(x, 1, 2).reshape(3, 125), atol=1e-5)


def test_each_network_learns_and_shuffling_is_of_every_signal_alike(data, monkeypatch):
    monkeypatch.setattr(mnist1d_table, "signals", lambda: data)
    monkeypatch.setattr(mnist1d_table, "QUICK", 40)
    monkeypatch.setattr(mnist1d_table, "SHOWN", 20)
    found = mnist1d_table.measure((0,), True)
    assert len(found.findings) == 2 and len(found.pictures) == 1
    for network in mnist1d_table.NETWORKS:
        assert float(mnist1d_table.compiled(network, 40)(data, 0)[-1]) > 60


def test_the_toy_measures_gradnorm_beside_equal_weights(monkeypatch):
    for name, value in {"INPUTS": 8, "OUTPUTS": 4, "WIDTH": 32, "LAYERS": 2, "SHOWN": 100, "QUICK": 400}.items():
        monkeypatch.setattr(gradnorm_toy, name, value)
    monkeypatch.setattr(gradnorm_toy, "SCALES", {2: (1.0, 100.0)})
    gradnorm_toy.compiled.cache_clear()
    params = gradnorm_toy.start(2, jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    y = np.zeros((5, 2, 4), np.float32)
    hidden = x
    for layer in params["trunk"].values():
        hidden = np.maximum(hidden @ layer["kernel"], 0)
    slow = [np.mean((hidden @ kernel) ** 2) for kernel in params["head"]["kernel"]]
    np.testing.assert_allclose(gradnorm_toy.squares(params, {"x": x, "y": y}), slow, rtol=1e-4)
    found = gradnorm_toy.measure((0,), True)
    gradnorm_toy.compiled.cache_clear()
    (finding,) = found.findings
    assert 0.3 < finding.ours[0] < 3 and finding.ours[0] != 1.0 and len(found.pictures) == 1
