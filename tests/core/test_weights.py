import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax.core import LowRank, Quantized, Scaled, materialize, matmul, merge, quantize
from ft_jax.core.weights import Transposed, cast, embed, shape
from ft_jax.core.weights.quantized import NF4

KEYS = jax.random.split(jax.random.key(0), 8)
BASE = jax.random.normal(KEYS[0], (64, 48))
X = jax.random.normal(KEYS[1], (3, 5, 64))
BIAS = jax.random.normal(KEYS[2], (48,))
A, B = jax.random.normal(KEYS[3], (64, 4)), jax.random.normal(KEYS[4], (4, 48))

OPERATORS = {
    "low rank": LowRank(BASE, A, B, jnp.float32(0.5)),
    "scaled outputs": Scaled(BASE, jnp.linspace(0.5, 2, 48), "outputs"),
    "scaled inputs": Scaled(BASE, jnp.linspace(0.5, 2, 64), "inputs"),
    "nf4": quantize(BASE, "nf4"),
    "int8": quantize(BASE, "int8"),
    "transposed": Transposed(BASE.T),
    "low rank over nf4": LowRank(quantize(BASE), A, B, jnp.float32(0.5)),
    "scaled over low rank over int8": Scaled(
        LowRank(quantize(BASE, "int8"), A, B, jnp.float32(0.5)), jnp.full(48, 3.0)
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_acts_as_the_matrix_it_materialises(name):
    weight = OPERATORS[name]
    assert shape(weight) == (64, 48) == materialize(weight).shape
    merged = merge({"kernel": weight, "bias": BIAS})
    np.testing.assert_allclose(matmul(weight, X, BIAS), X @ merged["kernel"] + merged["bias"], rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(matmul(weight, X), X @ materialize(weight), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_go_through_jit_vmap_and_grad(name):
    weight = OPERATORS[name]
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), weight)
    expected = matmul(weight, X)
    np.testing.assert_allclose(jax.jit(matmul)(weight, X), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jax.vmap(matmul, (0, None))(stacked, X)[1], expected, rtol=1e-4, atol=1e-4)
    gradient = jax.grad(lambda x: jnp.sum(matmul(weight, x) ** 2))(X)
    np.testing.assert_allclose(gradient, 2 * expected @ materialize(weight).T, rtol=1e-3, atol=1e-2)


def test_a_gradient_reaches_the_adapter_and_not_through_the_codes():
    def loss(a, b):
        return jnp.sum(matmul(LowRank(quantize(BASE), a, b, jnp.float32(0.5)), X))

    d_a, d_b = jax.grad(loss, (0, 1))(A, B)
    ones = jnp.ones((15, 48))
    flat = X.reshape(15, 64)
    np.testing.assert_allclose(d_a, 0.5 * flat.T @ ones @ B.T, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(d_b, 0.5 * (flat @ A).T @ ones, rtol=1e-3, atol=1e-3)


def test_nf4_takes_the_nearest_level_and_the_stated_bytes():
    weight = quantize(BASE, "nf4", block=64)
    blocks = np.asarray(BASE).reshape(-1, 64)
    scales = np.abs(blocks).max(1, keepdims=True)
    nearest = NF4[np.abs((blocks / scales)[..., None] - NF4).argmin(-1)] * scales
    np.testing.assert_allclose(weight.materialize(), nearest.reshape(64, 48), rtol=1e-6)
    stored = weight.codes.nbytes + weight.scales.nbytes
    assert stored / BASE.size == 0.5625


def test_int8_is_within_half_a_step():
    weight = quantize(BASE, "int8", block=32)
    step = np.abs(np.asarray(BASE).reshape(-1, 32)).max(1, keepdims=True) / 127
    error = np.abs(np.asarray(weight.materialize()) - np.asarray(BASE)).reshape(-1, 32)
    assert (error <= step / 2 + 1e-6).all()


def test_a_block_that_does_not_divide_is_padded():
    odd = BASE[:5, :7]
    assert quantize(odd, "int8", block=16).materialize().shape == (5, 7)
    zeros = quantize(jnp.zeros((4, 4)))
    assert not jnp.any(zeros.materialize()) and isinstance(zeros, Quantized)


@pytest.mark.parametrize(("format", "block", "said"), [("fp3", 64, "'fp3' is unknown"), ("nf4", 7, "block 7 must be")])
def test_a_wrong_quantisation_is_refused(format, block, said):
    with pytest.raises(ValueError, match=said):
        quantize(BASE, format, block)


def test_casting_leaves_codes_alone():
    weight = cast(LowRank(quantize(BASE), A, B, jnp.float32(1)), jnp.bfloat16)
    assert weight.a.dtype == jnp.bfloat16 and weight.base.codes.dtype == jnp.uint8


def test_embedding_reads_rows_of_any_weight():
    ids = jnp.array([[0, 3], [5, 1]])
    np.testing.assert_allclose(embed(OPERATORS["low rank"], ids), materialize(OPERATORS["low rank"])[ids], rtol=1e-6)
