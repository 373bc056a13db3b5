import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden.peft_comparison import of_weights

from ft_jax import transfer
from ft_jax.core import LowRank, compose, jit_step, make_step, optimizer, parameters, quantize, supervised
from ft_jax.core.params import paths
from ft_jax.core.weights import is_weight
from ft_jax.models import tiny_decoder

MODEL = tiny_decoder(jax.random.key(0))
IDS = jax.random.randint(jax.random.key(1), (4, 7), 0, 32)
BATCH = {"input_ids": IDS[:, :-1], "labels": IDS[:, 1:]}


def start(method, params=MODEL.params, build=None):
    program = make_step(supervised(MODEL.apply), build or optimizer(optax.sgd, learning_rate=0.1), method)
    return program, program.init(params, jax.random.key(2))


def randomised(state, seed=5):
    """The state with every learning leaf drawn at random, so that no factor is zero."""
    leaves, outline = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return state.replace(params=outline.unflatten(drawn))


@pytest.mark.parametrize("model", ["llama", "bert"])
def test_outputs_gradients_and_counts_equal_peft(model):
    compared = of_weights(model, "lora")
    assert compared.trainable[0] == compared.trainable[1]
    np.testing.assert_allclose(*compared.outputs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(*compared.merged, rtol=1e-5, atol=1e-5)
    assert len(compared.gradients) == {"llama": 28, "bert": 24}[model]
    for found, wanted in compared.gradients.values():
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_the_first_factor_is_kaiming_uniform_and_the_second_zero():
    params = {"dense": {"kernel": jnp.zeros((400, 300))}}
    _, state = start(transfer.lora(rank=64), params)
    kernel = state.params["model"]["dense"]["kernel"]
    bound = 1 / np.sqrt(400)
    assert np.abs(kernel.a).max() <= bound
    np.testing.assert_allclose(np.std(kernel.a), bound / np.sqrt(3), rtol=0.02)
    np.testing.assert_allclose(np.mean(kernel.a), 0, atol=bound / 50)
    assert not np.any(kernel.b) and kernel.a.dtype == kernel.b.dtype == jnp.float32


def test_weights_of_one_shape_start_at_different_factors():
    _, state = start(transfer.lora(rank=2))
    layers = state.params["model"]["layers"]
    assert np.any(layers["0"]["mlp"]["up"]["kernel"].a != layers["0"]["mlp"]["gate"]["kernel"].a)
    assert np.any(layers["0"]["mlp"]["up"]["kernel"].a != layers["1"]["mlp"]["up"]["kernel"].a)


@pytest.mark.parametrize(
    ("targets", "parts"),
    [
        ("all-linear", {"query", "key", "value", "output", "gate", "up", "down"}),
        ("attention", {"query", "key", "value", "output"}),
        ("mlp", {"gate", "up", "down"}),
        (("*/query/kernel", "*layers/1/mlp/up/*"), {"query", "up"}),
        ("*/value/kernel", {"value"}),
    ],
)
def test_targets_are_what_learns(targets, parts):
    _, state = start(transfer.lora(rank=2, targets=targets))
    learning = paths(state.params)
    assert {path.split("/")[-4] for path in learning} == parts
    assert {path.split("/")[-1] for path in learning} == {"a", "b"}


def test_also_names_what_learns_in_full():
    _, state = start(transfer.lora(rank=2, targets="attention", also=("*/head/*", "*norm/scale")))
    learning = {path for path in paths(state.params) if not path.endswith(("/a", "/b"))}
    assert "model/head/kernel" in learning and "model/layers/0/mlp_norm/scale" in learning
    assert len(learning) == 6


def test_alpha_changes_the_strength_and_compiles_nothing():
    method = transfer.lora(rank=2, alpha=4.0)
    program, state = start(method)
    state = randomised(state)
    step = jit_step(program.step)
    for alpha in (4.0, 0.5, 10.0):
        state = state.with_hyper({"transfer.lora.alpha": alpha})
        kernel = parameters(state, method)["model"]["layers"]["0"]["mlp"]["up"]["kernel"]
        dense = MODEL.params["layers"]["0"]["mlp"]["up"]["kernel"] + alpha / 2 * kernel.a @ kernel.b
        np.testing.assert_allclose(kernel.materialize(), dense, rtol=1e-5, atol=1e-6)
        state, _ = step(state, BATCH)
    assert step.compilations() == 1


def test_two_on_one_weight_keep_their_own_scales_under_an_operator_between():
    one, other = transfer.lora(rank=2, alpha=1.0, name="one"), transfer.lora(rank=4, alpha=12.0, name="other")
    from ft_jax.attention import ia3

    method = compose(one, ia3(), other)
    _, state = start(method)
    state = randomised(state)
    kernel = parameters(state, method)["model"]["layers"]["1"]["attention"]["value"]["kernel"]
    assert (kernel.owner, kernel.base.base.owner) == ("one", "other")
    base = MODEL.params["layers"]["1"]["attention"]["value"]["kernel"]
    inner = base + 12.0 / 4 * kernel.base.base.a @ kernel.base.base.b
    expected = inner * kernel.base.scale + 1.0 / 2 * kernel.a @ kernel.b
    np.testing.assert_allclose(kernel.materialize(), expected, rtol=1e-5, atol=1e-6)
    changed = parameters(state.with_hyper({"other.alpha": 0.0}), method)["model"]
    kernel = changed["layers"]["1"]["attention"]["value"]["kernel"]
    np.testing.assert_allclose(kernel.materialize(), base * kernel.base.scale + 0.5 * kernel.a @ kernel.b, atol=1e-6)


def test_a_quantised_base_stays_frozen_codes_under_the_adapter():
    def codes(path_tree):
        return jax.tree.map(lambda leaf: quantize(leaf, "int8", 16) if leaf.ndim == 2 else leaf, path_tree)

    params = {**MODEL.params, "layers": codes(MODEL.params["layers"])}
    program, state = start(transfer.lora(rank=2), params)
    assert {path.rsplit("/", 1)[1] for path in paths(state.params)} == {"a", "b"}
    before = state.frozen["model"]["layers"]["0"]["mlp"]["up"]["kernel"].base.codes
    losses = []
    for _ in range(5):
        state, metrics = jax.jit(program.step)(state, BATCH)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(before, state.frozen["model"]["layers"]["0"]["mlp"]["up"]["kernel"].base.codes)


def test_full_thaws_the_base_under_the_adapter():
    _, state = start(compose(transfer.full(), transfer.lora(rank=2)))
    assert "model/layers/0/mlp/up/kernel/base" in paths(state.params)


def test_any_low_rank_reader_sees_a_lora():
    method = transfer.lora(rank=2)
    _, state = start(method)
    weights = jax.tree.leaves(parameters(state, method)["model"]["layers"], is_leaf=is_weight)
    assert sum(isinstance(weight, LowRank) for weight in weights) == 14
    assert all(dataclasses.is_dataclass(weight) for weight in weights if is_weight(weight))


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (lambda: transfer.lora(rank=0), "transfer.lora has rank 0; give it at least 1"),
        (lambda: transfer.lora(rank=9), "rank 9, but model/layers/0/attention/key/kernel is 16 by 8; use .* at most 8"),
        (lambda: transfer.lora(2, targets="q_proj"), "targets has 'q_proj', which is no pattern"),
        (lambda: transfer.lora(2, targets=("*quary/kernel",)), r"no weight matches \*quary/kernel.*query/kernel"),
        (lambda: transfer.lora(2, also=("*/classifier/*",)), r"no parameter matches \*/classifier/\*; the nearest"),
        (lambda: transfer.head_only(("*/classifier/*",)), r"transfer.head_only: no parameter matches \*/classifier"),
    ],
)
def test_a_wrong_choice_is_refused_in_one_sentence(method, said):
    with pytest.raises(ValueError, match=said) as error:
        start(method())
    assert "\n" not in str(error.value)
