import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden.peft_reference import load

from ft_jax import attention, transfer
from ft_jax.core import compose, make_step, merge, parameters, supervised
from ft_jax.core.params import count, paths
from ft_jax.models import tiny_decoder

MODEL = tiny_decoder(jax.random.key(0))


def start(method, params=MODEL.params):
    return make_step(supervised(MODEL.apply), optax.sgd(0.1), method).init(params, jax.random.key(2))


@pytest.mark.parametrize("model", ["llama", "bert"])
def test_outputs_and_gradients_equal_peft(model):
    reference = load(model)
    method = attention.ia3()
    state = start(method, reference.params)
    assert count(state.params) == int(reference.records["ia3/trainable"])
    state = state.replace(params=reference.adapter("ia3", "weight", state.params))
    whole = parameters(state, method)["model"]
    real = np.asarray(reference.batch["attention_mask"], bool)
    expected = reference.records["ia3/outputs"]
    np.testing.assert_allclose(reference.outputs(whole)[real], expected[real], rtol=1e-5, atol=1e-5)
    merged = merge(whole)
    np.testing.assert_allclose(reference.outputs(merged)[real], expected[real], rtol=1e-5, atol=1e-5)
    value = merged["layers"]["0"]["attention"]["value"]
    assert np.any(np.abs(value["bias"] - reference.params["layers"]["0"]["attention"]["value"]["bias"]) > 1e-3)

    def loss(learned):
        return jnp.sum(reference.outputs(parameters(state.replace(params=learned), method)["model"]) * reference.probe)

    gradients = jax.grad(loss)(state.params)
    expected = reference.adapter("ia3", "gradient", state.params)
    assert len(jax.tree.leaves(expected)) == 6
    for found, wanted in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


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
