import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import transfer
from ft_jax.core import compose, jit_step, make_step, optimizer, parameters, supervised
from ft_jax.core.members import map_members, member
from ft_jax.core.mesh import traced_for
from ft_jax.core.weights import LowRank, Scaled, cast, matmul, matmuls, quantize
from ft_jax.models import tiny_decoder
from ft_jax.training import Mesh as TrainingMesh

KEYS = jax.random.split(jax.random.key(0), 8)
X = jax.random.normal(KEYS[0], (3, 5, 8))
BASE = jax.random.normal(KEYS[1], (8, 6))
A, B = jax.random.normal(KEYS[2], (8, 2)), jax.random.normal(KEYS[3], (2, 6))
BIAS = jax.random.normal(KEYS[4], (6,))
PARTS = (X, BASE, A, B, jnp.float32(0.5), BIAS)


def through(forward):
    return lambda x, w, a, b, s, bias: jnp.sum(jnp.sin(matmul(LowRank(w, a, b, s, forward=forward), x, bias)))


def plain(x, w, a, b, s, bias):
    return jnp.sum(jnp.sin(x @ (w + s * a @ b) + bias))


def gradient_of_gradients(f):
    inner = jax.grad(f, argnums=(0, 1, 2, 3))
    return jax.grad(lambda *parts: sum(jnp.sum(g**2) for g in inner(*parts)), argnums=(1, 2, 3, 5))


def over_members(f):
    gradient = jax.vmap(jax.grad(f, argnums=(2, 3, 4)), (None, None, 0, 0, 0, None))
    return lambda x, w, a, b, s, bias: gradient(
        x, w, jnp.stack([a, 2 * a]), jnp.stack([b, -b]), jnp.stack([s, s]), bias
    )


DERIVATIVES = {
    "gradients": lambda f: jax.value_and_grad(f, argnums=range(6)),
    "tangents": lambda f: lambda *parts: jax.jvp(f, parts, parts),
    "second derivatives": lambda f: jax.hessian(f, argnums=(2, 3)),
    "gradients of gradients": gradient_of_gradients,
    "members": over_members,
    "rematerialised": lambda f: jax.grad(jax.checkpoint(f), argnums=range(6)),
}


@pytest.mark.parametrize("forward", ["two_pass", "merged_backward", "merged", "auto"])
@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_every_forward_is_the_same_function(forward, derivative):
    found = jax.jit(DERIVATIVES[derivative](through(forward)))(*PARTS)
    wanted = jax.jit(DERIVATIVES[derivative](plain))(*PARTS)
    # Entries that cancel are as exact as the largest one allows.
    close = lambda f, w: np.testing.assert_allclose(f, w, rtol=2e-4, atol=2e-4 + 2e-6 * np.abs(w).max())  # noqa: E731
    jax.tree.map(close, found, wanted)


WIDTHS = (6, 4, 9)
TOGETHER = [
    (jax.random.normal(key, (8, width)), jax.random.normal(key, (8, rank)), jax.random.normal(key, (rank, width)))
    for key, width, rank in zip(KEYS[5:], WIDTHS, (2, 3, 2), strict=True)
]


def wave(products):
    return sum(jnp.sum(jnp.sin(y + i)) for i, y in enumerate(products))


@pytest.mark.parametrize("forward", ["two_pass", "merged_backward", "merged", "mixed"])
@pytest.mark.parametrize("derivative", ["value_and_grad", "jvp", "of gradients", "members"])
def test_projections_of_one_input_equal_each_by_itself(forward, derivative):
    forwards = ("two_pass", "merged", "merged") if forward == "mixed" else (forward,) * 3
    biases = [None, jnp.arange(4.0), None]

    def weights(parts):
        return [LowRank(*part, jnp.float32(0.5), forward=way) for part, way in zip(parts, forwards, strict=True)]

    def together(x, parts):
        return wave(matmuls(weights(parts), x, biases))

    def plain(x, parts):
        dense = [w + 0.5 * a @ b for w, a, b in parts]
        return wave(x @ w if bias is None else x @ w + bias for w, bias in zip(dense, biases, strict=True))

    def derived(f):
        if derivative == "value_and_grad":
            return jax.value_and_grad(f, argnums=(0, 1))(X, TOGETHER)
        if derivative == "jvp":
            return jax.jvp(f, (X, TOGETHER), (X, TOGETHER))
        if derivative == "of gradients":
            inner = jax.grad(f, argnums=1)
            return jax.grad(lambda x: sum(jnp.sum(g**2) for g in jax.tree.leaves(inner(x, TOGETHER))))(X)
        members = [(w, jnp.stack([a, -a]), jnp.stack([b, 2 * b])) for w, a, b in TOGETHER]
        return jax.vmap(jax.grad(f, argnums=1), (None, [(None, 0, 0)] * 3))(X, members)

    jax.tree.map(lambda f, w: np.testing.assert_allclose(f, w, rtol=2e-4, atol=2e-4), derived(together), derived(plain))


def test_projections_of_mixed_kinds_come_back_in_their_order():
    low_rank = [LowRank(*part, jnp.float32(0.5), forward="merged") for part in TOGETHER]
    directional = transfer.dora(rank=2).surgery({"model": {"kernel": BASE}}, KEYS[7])["model"]["kernel"]
    weights = [low_rank[0], TOGETHER[1][0], directional, Scaled(BASE, 1 + jnp.arange(6.0)), low_rank[2], directional]
    biases = [BIAS, None, BIAS, BIAS, None, None]
    for found, weight, bias in zip(matmuls(weights, X, biases), weights, biases, strict=True):
        np.testing.assert_allclose(found, matmul(weight, X, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("forward", ["two_pass", "merged_backward", "merged"])
def test_low_rank_passes_over_one_input_are_one_product(forward):
    def loss(parts):
        return wave(matmuls([LowRank(*part, jnp.float32(0.5), forward=forward) for part in parts], X, [None] * 3))

    def of_factors(factors):
        return loss([(w, *own) for (w, _, _), own in zip(TOGETHER, factors, strict=True)])

    program = str(jax.make_jaxpr(jax.grad(of_factors))([part[1:] for part in TOGETHER]))

    def products(shape):
        return program.count(f"f32[{shape}] = dot_general")

    passes = {rank: products(f"3,5,{rank}") for rank in (2, 3, 7)}
    gradients = {rank: products(f"{rank},8") + products(f"8,{rank}") for rank in (2, 3, 7)}
    assert gradients == {2: 0, 3: 0, 7: 1}
    # Of rank 7 what a reads; of 2, 3 and 2 the cotangents through each b.
    assert passes[7] >= 1 and (passes[2], passes[3]) == (2, 1)


def dense_gradients(function, *arguments):
    """How many products of the base's shape the gradient of `function` forms."""
    text = str(jax.make_jaxpr(jax.grad(function))(*arguments))
    return sum("f32[40,30] = dot_general" in line or "f32[30,40] = dot_general" in line for line in text.splitlines())


@pytest.mark.parametrize(("forward", "merges"), [("two_pass", 0), ("merged_backward", 0), ("merged", 1)])
def test_the_gradient_of_a_frozen_base_is_never_formed(forward, merges):
    x, w = jnp.ones((4, 40)), jnp.ones((40, 30))
    factors = {"a": jnp.ones((40, 2)), "b": jnp.ones((2, 30))}

    def frozen(factors, base):
        return jnp.sum(matmul(LowRank(base, **factors, scale=jnp.float32(1), forward=forward), x) ** 2)

    def learning(everything):
        return frozen(everything["factors"], everything["base"])

    assert dense_gradients(frozen, factors, w) == merges
    assert dense_gradients(learning, {"factors": factors, "base": w}) == merges + 1


def test_the_gradient_of_the_second_factor_turns_over_the_narrow_side():
    x, weight = jnp.ones((7, 40)), LowRank(jnp.ones((40, 30)), jnp.ones((40, 2)), jnp.ones((2, 30)), jnp.float32(1))

    def loss(b):
        return jnp.sum(matmul(dataclasses.replace(weight, b=b), x) ** 2)

    assert "f32[2,30] = dot_general" in str(jax.make_jaxpr(jax.grad(loss))(weight.b))


@pytest.mark.parametrize("forward", ["merged_backward", "merged", "auto"])
@pytest.mark.parametrize(
    "base",
    [
        quantize(jax.random.normal(KEYS[5], (32, 16)), "int8"),
        LowRank(jnp.eye(32, 16), jnp.ones((32, 2)), jnp.ones((2, 16)), jnp.float32(0.3), forward="merged"),
        LowRank(jnp.eye(32, 16), jnp.ones((32, 2)), jnp.ones((2, 16)), jnp.float32(0.3), forward="two_pass"),
        Scaled(jnp.eye(32, 16), 1 + jnp.arange(16.0)),
    ],
    ids=["codes", "merged", "two_pass", "scaled"],
)
def test_over_other_operators_a_merged_forward_equals_two_passes(forward, base):
    x, bias = jax.random.normal(KEYS[6], (40, 32)), jnp.arange(16.0)
    a, b = jax.random.normal(KEYS[2], (32, 3)), jax.random.normal(KEYS[3], (3, 16))
    one, other = (LowRank(base, a, b, jnp.float32(0.5), forward=way) for way in (forward, "two_pass"))
    np.testing.assert_allclose(matmul(one, x, bias), matmul(other, x, bias), rtol=1e-4, atol=1e-4)
    gradients = [
        jax.grad(lambda weight: jnp.sum(jnp.tanh(matmul(weight, x, bias))), allow_int=True)(weight)
        for weight in (one, other)
    ]
    np.testing.assert_allclose(gradients[0].a, gradients[1].a, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(gradients[0].b, gradients[1].b, rtol=1e-3, atol=1e-4)


def test_auto_merges_many_rows_and_forward_in_float32_alone():
    weight = LowRank(jnp.ones((64, 64)), jnp.ones((64, 2)), jnp.ones((2, 64)), jnp.float32(1), forward="auto")

    def merges(weight, rows, dtype=jnp.float32):
        """Whether a weight is merged in the forward and in the backward pass."""
        program = str(jax.make_jaxpr(jax.grad(lambda x: jnp.sum(matmul(weight, x))))(jnp.ones((rows, 64), dtype)))
        forward = str(jax.make_jaxpr(lambda x: matmul(weight, x))(jnp.ones((rows, 64), dtype)))
        return tuple("f32[64,64] = dot_general" in program for program in (forward, program))

    assert merges(weight, 32) == (True, True) and merges(weight, 31) == (False, False)
    assert merges(weight, 256, jnp.bfloat16) == (False, True) and merges(weight, 255, jnp.bfloat16) == (False, False)
    with traced_for(TrainingMesh(data=2).build(jax.devices()[:2])):
        assert merges(weight, 64) == (True, True) and merges(weight, 63) == (False, False), "rows of a device"
    codes = dataclasses.replace(weight, base=quantize(weight.base))
    assert merges(codes, 256) == (False, True) and merges(codes, 255) == (False, False)
    assert merges(dataclasses.replace(weight, forward="merged"), 1, jnp.bfloat16) == (True, True)
    assert merges(dataclasses.replace(weight, forward="two_pass"), 48) == (False, False)


def test_projections_of_one_input_go_one_way_together():
    def low_rank(outputs):
        a, b = jnp.ones((64, 2)), jnp.ones((2, outputs))
        return LowRank(jnp.ones((64, outputs)), a, b, jnp.float32(1), forward="auto")

    def merges(x, *weights):
        program = str(jax.make_jaxpr(lambda x: matmuls(weights, x, [None] * len(weights)))(x))
        return "f32[64,16] = dot_general" in program

    x = jnp.ones((16, 64))
    assert merges(x, low_rank(16)) and not merges(x, low_rank(16), low_rank(64))
    assert merges(jnp.ones((32, 64)), low_rank(16), low_rank(64))


def test_codes_are_never_kept_as_a_dense_weight():
    codes = quantize(jax.random.normal(KEYS[5], (32, 16)), "int8")
    a, b = jnp.ones((32, 2)), jnp.ones((2, 16))
    weight = LowRank(codes, a, b, jnp.float32(0.5), forward="merged_backward")
    _, back = jax.vjp(lambda x, a, b: matmul(dataclasses.replace(weight, a=a, b=b), x), jnp.ones((9, 32)), a, b)
    assert not any(leaf.shape == codes.shape for leaf in jax.tree.leaves(back))

    def loss(scales, forward):
        base = dataclasses.replace(codes, scales=scales)
        return jnp.sum(jnp.sin(matmul(dataclasses.replace(weight, base=base, forward=forward), jnp.ones((9, 32)))))

    of_scales = jax.grad(loss)(codes.scales, "two_pass")
    for forward in ("merged", "merged_backward"):
        np.testing.assert_allclose(jax.grad(loss)(codes.scales, forward), of_scales, rtol=1e-4, atol=1e-4)


def test_merged_backward_loses_no_update_and_keeps_no_merged_weight():
    weight = cast(LowRank(BASE, A, 1e-4 * B, jnp.float32(0.5), forward="merged_backward"), jnp.bfloat16)
    x = X.astype(jnp.bfloat16)
    two_pass = dataclasses.replace(weight, forward="two_pass")
    np.testing.assert_array_equal(matmul(weight, x), matmul(two_pass, x))
    _, back = jax.vjp(lambda x, a: matmul(dataclasses.replace(weight, a=a), x), x, weight.a)
    assert sum(leaf.shape == weight.shape for leaf in jax.tree.leaves(back)) == 1  # the base's own


def test_merging_rounds_once_to_the_compute_type():
    weight = cast(LowRank(BASE, A, B, jnp.float32(0.5), forward="merged"), jnp.bfloat16)
    dense = weight.base.astype(jnp.float32) + 0.5 * jnp.matmul(weight.a, weight.b, preferred_element_type=jnp.float32)
    x = X.astype(jnp.bfloat16)
    np.testing.assert_array_equal(matmul(weight, x), x @ dense.astype(jnp.bfloat16))


MODEL = tiny_decoder(jax.random.key(0))
IDS = jax.random.randint(jax.random.key(1), (8, 9), 0, 32)
BATCH = {"input_ids": IDS[:, :-1], "labels": IDS[:, 1:]}


def trained(forward, steps=3, members=0, adapter=None):
    method = compose(*([adapter] if adapter else []), transfer.lora(rank=2, forward=forward))
    program = make_step(supervised(MODEL.apply), optimizer(optax.adamw, learning_rate=1e-2), method)
    program = map_members(program, members) if members else program
    state, step = jax.jit(program.init)(MODEL.params, jax.random.key(2)), jit_step(program.step)
    for _ in range(steps):
        state, metrics = step(state, BATCH)
    return state, metrics, method


def test_training_gives_the_same_curve_whichever_the_forward():
    losses = [
        float(trained(forward, steps=5)[1]["loss"]) for forward in ("two_pass", "merged_backward", "merged", "auto")
    ]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


def test_members_with_a_merged_forward_equal_separate_runs():
    together, _, method = trained("merged", members=2)
    apart, _, _ = trained("two_pass", members=2)
    for index in range(2):
        one, other = (parameters(member(state, index), method)["model"] for state in (together, apart))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            jax.tree.leaves(one),
            jax.tree.leaves(other),
        )


def test_a_base_that_learns_under_a_merged_adapter_learns_the_same():
    (one, _, _), (other, _, _) = (trained(forward, adapter=transfer.full()) for forward in ("merged", "two_pass"))
    assert len(jax.tree.leaves(one.params)) > 28
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        jax.tree.leaves(one.params),
        jax.tree.leaves(other.params),
    )
