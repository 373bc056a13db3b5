"""Quantised bases: their size, their accuracy, what stays packed while training, LoftQ."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import transfer
from ft_jax.core import LowRank, Quantized, compose, make_step, optimizer, parameters, quantize, supervised
from ft_jax.core.params import paths
from ft_jax.core.weights import matmul
from ft_jax.models import tiny_decoder
from ft_jax.transfer.nesting import innermost

MODEL = tiny_decoder(jax.random.key(0), width=32)
IDS = jax.random.randint(jax.random.key(1), (4, 7), 0, 32)
BATCH = {"input_ids": IDS[:, :-1], "labels": IDS[:, 1:]}


def start(*methods, params=MODEL.params):
    method = compose(*methods)
    program = make_step(supervised(MODEL.apply), optimizer(optax.adam, learning_rate=0.01), method)
    return program, method, jax.jit(program.init)(params, jax.random.key(2))


def bytes_of(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def stored(weight):
    found = []
    innermost(weight, lambda matrix: found.append(matrix) or matrix)
    return found[0]


def test_a_doubly_quantised_base_takes_at_most_six_tenths_of_a_byte_a_number():
    weight = jax.random.normal(jax.random.key(0), (768, 1024))
    for double, most in ((True, 0.517), (False, 0.563)):
        assert bytes_of(quantize(weight, "nf4", 64, double)) / weight.size < most
    # The tiny matrices here hold a few groups of scales each, and their overhead with them.
    _, _, state = start(transfer.lora(rank=2), transfer.quantize())
    held = [
        stored(w) for w in jax.tree.leaves(state.frozen, is_leaf=lambda w: isinstance(w, LowRank)) if hasattr(w, "base")
    ]
    assert len(held) == 14 and all(isinstance(weight, Quantized) for weight in held)
    assert bytes_of(held) / sum(weight.inputs * weight.outputs for weight in held) < 0.6


@pytest.mark.parametrize(("format", "most"), [("nf4", 0.1), ("int8", 0.01)])
def test_double_quantisation_costs_little_accuracy(format, most):
    weight = jax.random.normal(jax.random.key(0), (256, 320))
    once, twice = (
        float(jnp.linalg.norm(quantize(weight, format, 64, double).materialize() - weight) / jnp.linalg.norm(weight))
        for double in (False, True)
    )
    assert once < most and twice < 1.05 * once
    assert np.all(np.isfinite(quantize(jnp.zeros((8, 16)), format, 16, True).materialize()))


def test_the_scales_are_their_mean_and_eight_bits_in_groups_of_256():
    weight = jax.random.normal(jax.random.key(0), (300, 256)) * jnp.linspace(0.1, 3.0, 300)[:, None]
    packed = quantize(weight, "nf4", 64, double=True)
    exact = np.abs(np.asarray(weight).reshape(-1, 64)).max(axis=1)
    assert packed.scales.dtype == jnp.uint8 and packed.scales.shape == (1200,) and packed.second.shape == (5,)
    np.testing.assert_allclose(packed.offset, exact.mean(), rtol=1e-5)
    centred = exact - exact.mean()
    for group in range(5):
        own = slice(256 * group, 256 * (group + 1))
        gap = np.abs(packed.block_scales()[own] - exact[own]).max()
        assert gap <= np.abs(centred[own]).max() / 254 * 1.001


def test_qlora_learns_over_a_base_that_stays_packed():
    program, _, state = start(transfer.lora(rank=2), transfer.quantize())
    assert all(path.rsplit("/", 1)[1] in ("a", "b") for path in paths(state.params))
    losses, step = [], jax.jit(program.step)
    for _ in range(8):
        state, metrics = step(state, BATCH)
        losses.append(float(metrics["loss"]))
    _, _, plain = start(transfer.lora(rank=2))
    full = jax.jit(start(transfer.lora(rank=2))[0].step)
    reference = []
    for _ in range(8):
        plain, metrics = full(plain, BATCH)
        reference.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] - 0.1
    np.testing.assert_allclose(losses, reference, atol=0.1)


def test_the_order_of_adapter_and_quantisation_does_not_matter():
    outputs = []
    for methods in ((transfer.lora(rank=2), transfer.quantize()), (transfer.quantize(), transfer.lora(rank=2))):
        _, method, state = start(*methods)
        params = parameters(state, method)["model"]
        kernel = params["layers"]["0"]["mlp"]["up"]["kernel"]
        assert isinstance(kernel, LowRank) and isinstance(kernel.base, Quantized)
        outputs.append(MODEL.apply(params, BATCH).logits)
    np.testing.assert_allclose(*outputs, atol=1e-5)


def test_pissa_under_quantisation_rounds_the_residual_alone():
    weight = jax.random.normal(jax.random.key(3), (64, 3)) @ jax.random.normal(jax.random.key(4), (3, 64))
    params = {"up": {"kernel": weight + 0.01 * jax.random.normal(jax.random.key(5), (64, 64))}}
    lost = {}
    for name, methods in {
        "qpissa": (transfer.quantize(), transfer.pissa(rank=3)),
        "pissa of codes": (transfer.pissa(rank=3), transfer.quantize()),
        "qlora": (transfer.lora(rank=3), transfer.quantize()),
    }.items():
        tree = {"model": params}
        for method in reversed(methods):
            tree = method.surgery(tree, jax.random.key(6))
        kernel = tree["model"]["up"]["kernel"]
        assert isinstance(stored(kernel), Quantized)
        lost[name] = float(jnp.linalg.norm(kernel.materialize() - params["up"]["kernel"]))
    assert lost["qpissa"] < 0.1 * lost["qlora"] and lost["pissa of codes"] < 1.1 * lost["qlora"]


def test_loftq_begins_nearer_to_the_weight_with_every_iteration():
    weight = jax.random.normal(jax.random.key(3), (64, 96))
    tree = {"model": {"up": {"kernel": weight}}}

    def lost(iterations):
        method = transfer.loftq(rank=8, iterations=iterations, alpha=4.0)
        kernel = method.surgery(tree, jax.random.key(0))["model"]["up"]["kernel"]
        return float(jnp.linalg.norm(kernel.materialize() - weight))

    plain = float(jnp.linalg.norm(quantize(weight, double=True).materialize() - weight))
    assert lost(5) < lost(1) < 0.95 * plain


def test_no_dequantised_weight_waits_for_the_backward_pass():
    packed = [quantize(jax.random.normal(jax.random.key(i), (256, 256)), double=True) for i in range(4)]

    def loss(x):
        for weight in packed:
            x = jnp.tanh(matmul(weight, x))
        return jnp.sum(x)

    _, backward = jax.vjp(loss, jnp.ones((2, 256)))
    kept = jax.tree.leaves(backward)
    assert sum(leaf.nbytes for leaf in kept) < 4 * 256 * 256
    assert not [leaf for leaf in kept if leaf.shape == (256, 256)]


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (lambda: (transfer.quantize("int4"),), "transfer.quantize has format 'int4'; use 'nf4' or 'int8'"),
        (lambda: (transfer.quantize(block=7),), "transfer.quantize has block 7; give a positive even number"),
        (
            lambda: (transfer.full(), transfer.quantize()),
            "transfer.full lets model/layers/0/attention/query/kernel learn, of which transfer.quantize makes codes",
        ),
        (
            lambda: (transfer.lora(rank=2, also=("*/down/kernel*",)), transfer.quantize()),
            "down/kernel/.*codes has type uint8 and can't learn; put an adapter over it",
        ),
        (lambda: (transfer.loftq(iterations=0),), "transfer.loftq has 0 iterations; give at least 1"),
    ],
)
def test_a_wrong_choice_is_refused_in_one_sentence(methods, said):
    with pytest.raises(ValueError, match=said) as error:
        start(*methods())
    assert "\n" not in str(error.value)
