"""Several adapters on one base give what each gives alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import adaptive, transfer
from ft_jax.core import compose, make_step, merge, optimizer, outputs_of, parameters, supervised
from ft_jax.core.adapters import map_operators
from ft_jax.models import load_adapter, save_adapter, tiny_decoder

MODEL = tiny_decoder(jax.random.key(0))
IDS = jax.random.randint(jax.random.key(1), (6, 7), 0, 32)
BATCH = {"input_ids": IDS[:, :-1], "labels": IDS[:, 1:]}
CHOICE = jnp.array([2, 0, 1, 0, 2, 1])


def trained(rank, seed, model=MODEL, **options):
    """The model's parameters with a LoRA whose factors are drawn."""
    tree = transfer.lora(rank=rank, **options).surgery({"model": model.params}, jax.random.key(seed))["model"]

    def draw(weight):
        b = 0.2 * jax.random.normal(jax.random.key(seed + int(weight.b.shape[1])), weight.b.shape)
        return dataclasses.replace(weight, b=b)

    return map_operators(draw, tree)


ADAPTERS = {
    "sentiment": trained(2, 3),
    "topic": trained(4, 4, alpha=3.0, targets="mlp"),
    "style": trained(1, 5, targets="attention"),
}


def start(method):
    program = make_step(supervised(MODEL.apply), optimizer(optax.sgd, learning_rate=0.1), method)
    return program, jax.jit(program.init)(MODEL.params, jax.random.key(2))


def alone(name):
    return MODEL.apply(ADAPTERS[name], BATCH).logits


@pytest.fixture(scope="module")
def bank():
    method = transfer.bank(ADAPTERS)
    return method, *start(method)


def test_each_example_meets_its_own_adapter(bank):
    _, program, state = bank
    _, logits, _ = jax.jit(program.evaluate)(state, {**BATCH, "adapter": CHOICE})
    expected = jnp.stack([alone(list(ADAPTERS)[which])[row] for row, which in enumerate(CHOICE)])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_one_is_shown_another_chosen_and_all_mixed_by_numbers_alone(bank):
    method, program, state = bank
    evaluate = jax.jit(program.evaluate)
    np.testing.assert_allclose(evaluate(state, BATCH)[1], alone("sentiment"), rtol=1e-4, atol=1e-5)
    switched = state.with_hyper({"transfer.bank.sentiment": 0.0, "transfer.bank.topic": 1.0})
    np.testing.assert_allclose(evaluate(switched, BATCH)[1], alone("topic"), rtol=1e-4, atol=1e-5)
    compiled = evaluate._cache_size()
    mixed = state.with_hyper({"transfer.bank.sentiment": 0.25, "transfer.bank.topic": 0.5, "transfer.bank.style": -1.0})
    kernel = ("layers", "0", "mlp", "up", "kernel")

    def at(tree):
        for part in kernel:
            tree = tree[part]
        return tree

    dense = at(merge(parameters(mixed, method)["model"]))
    updates = [at(ADAPTERS[name]).materialize() - at(MODEL.params) for name in ("sentiment", "topic")]
    np.testing.assert_allclose(dense, at(MODEL.params) + 0.25 * updates[0] + 0.5 * updates[1], rtol=1e-4, atol=1e-5)
    merged = MODEL.apply(merge(parameters(mixed, method)["model"]), BATCH).logits
    np.testing.assert_allclose(evaluate(mixed, BATCH)[1], merged, rtol=1e-4, atol=1e-5)
    assert evaluate._cache_size() == compiled


def test_each_adapter_learns_from_its_own_examples_as_if_alone(bank):
    _, program, state = bank
    step = jax.jit(program.step)
    after, _ = step(state, {**BATCH, "adapter": jnp.array([0, 0, 0, 1, 1, 1])})
    moved = after.params["model"]["layers"]["0"]["mlp"]["up"]["kernel"]
    # The mean over six examples halves what three of them alone would give.
    own = {name: x[:3] for name, x in BATCH.items()}
    single = transfer.bank({"sentiment": ADAPTERS["sentiment"]})
    other, _ = jax.jit(start(single)[0].step)(start(single)[1], own)
    expected = other.params["model"]["layers"]["0"]["mlp"]["up"]["kernel"]
    before = start(single)[1].params["model"]["layers"]["0"]["mlp"]["up"]["kernel"]
    np.testing.assert_allclose(moved.b[0, :2] - before.b[0], (expected.b[0] - before.b[0]) / 2, rtol=1e-3, atol=1e-6)
    start_b = jnp.zeros_like(moved.b[2])
    np.testing.assert_array_equal(moved.b[2], start_b)
    np.testing.assert_array_equal(moved.b[0, 2:], start_b[2:])


def test_a_bank_of_saved_adapters_over_a_quantised_base(tmp_path):
    loaded = {}
    for name, params in ADAPTERS.items():
        save_adapter(MODEL, params, tmp_path / name)
        loaded[name] = load_adapter(tmp_path / name, MODEL)[1]
    _, state = start(transfer.bank(loaded))
    for found, wanted in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(start(transfer.bank(ADAPTERS))[1].params), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    packing = transfer.quantize("int8", block=16)
    program, state = start(compose(transfer.bank(loaded), packing))
    _, logits, _ = jax.jit(program.evaluate)(state, {**BATCH, "adapter": CHOICE})
    expected = []
    for row, which in enumerate(CHOICE):
        packed = packing.surgery({"model": loaded[list(loaded)[which]]}, jax.random.key(0))["model"]
        expected.append(MODEL.apply(packed, BATCH).logits[row])
    np.testing.assert_allclose(logits, jnp.stack(expected), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: transfer.bank({}), "transfer.bank got no adapters; give it at least one"),
        (lambda: transfer.bank(ADAPTERS, active="law"), "transfer.bank has no adapter 'law'; it has sentiment, topic"),
        (lambda: transfer.bank({"a": MODEL.params}), "adapter 'a' has no low-rank operator; give parameters with"),
        (
            lambda: transfer.bank({"a": trained(2, 1, model=tiny_decoder(jax.random.key(0), width=8))}),
            "adapter 'a' was trained on model/.* of 8 by 4, here it is 16 by 8; it belongs to another base",
        ),
    ],
)
def test_a_wrong_bank_is_refused_in_one_sentence(make, said):
    with pytest.raises(ValueError, match=said) as error:
        start(make())
    assert "\n" not in str(error.value)


def test_it_chooses_in_the_forward_pass_and_wants_one_adapter_an_example(bank):
    method, program, state = bank
    batch = {**BATCH, "adapter": CHOICE}
    for order in (compose(method, adaptive.uncertainty(("task",))), compose(adaptive.uncertainty(("task",)), method)):
        _, both = start(order)
        np.testing.assert_allclose(
            outputs_of(both, order, MODEL.apply, batch).logits, program.evaluate(state, batch).predictions, rtol=1e-5
        )
    with pytest.raises(ValueError, match=r"got batch\['adapter'\] of shape \(2,\) for 6 examples; give each one index"):
        program.evaluate(state, {**BATCH, "adapter": jnp.zeros(2, jnp.int32)})
