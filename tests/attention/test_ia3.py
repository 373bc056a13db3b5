import jax
import numpy as np
import optax
import pytest
from golden.peft_comparison import of_weights, plain

from ft_jax import attention, transfer
from ft_jax.core import compose, make_step, merge, parameters, supervised
from ft_jax.core.params import paths
from ft_jax.models import tiny_decoder

MODEL = tiny_decoder(jax.random.key(0))
BIASED = plain("bert")


def start(method, params=MODEL.params):
    return make_step(supervised(MODEL.apply), optax.sgd(0.1), method).init(params, jax.random.key(2))


@pytest.mark.parametrize("model", ["llama", "bert"])
def test_outputs_and_gradients_equal_peft(model):
    compared = of_weights(model, "ia3")
    assert compared.trainable[0] == compared.trainable[1]
    np.testing.assert_allclose(*compared.outputs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(*compared.merged, rtol=1e-5, atol=1e-5)
    assert len(compared.gradients) == 6
    for found, wanted in compared.gradients.values():
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_merging_scales_the_bias_too():
    state = start(attention.ia3(), BIASED.params)
    state = state.replace(params=jax.tree.map(lambda leaf: leaf + 0.5, state.params))
    merged = merge(parameters(state, attention.ia3())["model"])
    for number, layer in merged["layers"].items():
        before = BIASED.params["layers"][number]["attention"]["value"]["bias"]
        assert np.any(before)
        np.testing.assert_allclose(layer["attention"]["value"]["bias"], 1.5 * before, rtol=1e-6)


def test_only_the_scales_learn_and_they_start_at_one():
    state = start(attention.ia3())
    assert paths(state.params) == [
        f"model/layers/{layer}/{part}/kernel/attention.ia3/scale"
        for layer in (0, 1)
        for part in ("attention/key", "attention/value", "mlp/down")
    ]
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize("outermost", ["ia3", "lora"])
def test_scales_learn_beside_a_low_rank_update_on_the_same_weight(outermost):
    parts = [attention.ia3(), transfer.lora(rank=2, targets="attention")]
    state = start(compose(*(parts if outermost == "ia3" else reversed(parts))))
    scales = [leaf for leaf in paths(state.params) if leaf.endswith("/scale")]
    assert len(scales) == 6
    assert sum("/base/attention.ia3/scale" in path for path in scales) == (0 if outermost == "ia3" else 4)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ({"keys": ("*key/kernel",)}, "side 'keys'; give patterns for 'outputs', 'inputs' or both"),
        ({}, "got no targets"),
        ({"outputs": ("*k_proj/kernel",)}, r"no weight matches \*k_proj/kernel; the nearest paths are model/"),
    ],
)
def test_wrong_targets_are_refused_in_one_sentence(targets, said):
    with pytest.raises(ValueError, match=said):
        start(attention.ia3(targets))
