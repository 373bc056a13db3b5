import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from core import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_jax.core import LowRank, Outputs, cross_entropy, kl_divergence, quantize, token_log_probabilities
from ft_jax.core.losses import chunk_sizes, default_chunk, mean_cross_entropy

CHUNKS = (1, 5, 7, 12, 100)


def plain_cross_entropy(params, batch):
    logits = tiny.apply(params, batch, None).logits
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["labels"][..., None], -1)[..., 0]
    return -jnp.sum(batch["weights"] * chosen) / jnp.sum(batch["weights"])


def chunked_cross_entropy(params, batch, chunk):
    return cross_entropy(tiny.apply(params, batch, None), batch["labels"], batch["weights"], chunk=chunk)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_chunked_cross_entropy_equals_the_whole_one(chunk):
    params, batch = tiny.params(), tiny.batch()
    value, gradients = jax.jit(jax.value_and_grad(lambda p: chunked_cross_entropy(p, batch, chunk)))(params)
    expected, expected_gradients = jax.value_and_grad(plain_cross_entropy)(params, batch)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    chex.assert_trees_all_close(gradients, expected_gradients, atol=1e-6)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_chunked_kl_equals_the_whole_one(chunk, temperature):
    params, batch = tiny.params(), tiny.batch()
    teacher = tiny.apply(jax.tree.map(lambda x: x * 1.5, params), batch, None)

    def chunked(params):
        return kl_divergence(tiny.apply(params, batch, None), teacher, temperature, batch["weights"], chunk=chunk)

    def plain(params):
        p = jax.nn.softmax(teacher.logits / temperature)
        q = jax.nn.softmax(tiny.apply(params, batch, None).logits / temperature)
        rows = jnp.sum(p * jnp.log(p / q), axis=-1)
        return temperature**2 * jnp.sum(batch["weights"] * rows) / jnp.sum(batch["weights"])

    value, gradients = jax.jit(jax.value_and_grad(chunked))(params)
    expected, expected_gradients = jax.value_and_grad(plain)(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    chex.assert_trees_all_close(gradients, expected_gradients, atol=1e-5)


def test_second_derivatives_go_through_the_chunks():
    params, batch = tiny.params(), tiny.batch()

    def after_a_step(loss):
        def value(params):
            gradients = jax.grad(loss)(params)
            return loss(jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients))

        return jax.jit(jax.grad(value))(params)

    chunked = after_a_step(lambda p: chunked_cross_entropy(p, batch, 5))
    chex.assert_trees_all_close(chunked, after_a_step(lambda p: plain_cross_entropy(p, batch)), atol=1e-6)


def test_an_adapter_on_a_quantised_unembedding_learns_through_the_chunks():
    batch, params = tiny.batch(), tiny.params()
    base = quantize(params["head"]["kernel"], block=4)

    def loss(factors, chunk):
        head = LowRank(base, *factors, scale=jnp.float32(2.0))
        return chunked_cross_entropy({**params, "head": {"kernel": head}}, batch, chunk)

    keys = jax.random.split(jax.random.key(5))
    factors = (jax.random.normal(keys[0], (tiny.WIDTH, 2)), jax.random.normal(keys[1], (2, tiny.CLASSES)))
    chunked, whole = jax.grad(loss)(factors, 5), jax.grad(loss)(factors, 100)
    chex.assert_trees_all_close(chunked, whole, atol=1e-6)
    assert float(jnp.abs(whole[0]).max()) > 1e-4


def test_no_array_holds_all_logits():
    batch, params = tiny.batch(), tiny.params()
    jaxpr = jax.make_jaxpr(jax.grad(lambda p: chunked_cross_entropy(p, batch, 3)))(params)
    whole = tiny.BATCH * tiny.TIME * tiny.CLASSES
    assert f"{tiny.BATCH},3,{tiny.CLASSES}" in str(jaxpr)
    whole_jaxpr = jax.make_jaxpr(jax.grad(lambda p: chunked_cross_entropy(p, batch, 100)))(params)
    assert max(sizes(jaxpr.jaxpr)) < whole <= max(sizes(whole_jaxpr.jaxpr))


def sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars if hasattr(variable.aval, "size"))
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
            if hasattr(inner, "jaxpr"):
                yield from sizes(inner.jaxpr)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**31 - 1))
def test_any_chunk_gives_the_same_log_probabilities(time, chunk, seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    outputs = Outputs(jax.random.normal(keys[0], (2, time, 4)), jax.random.normal(keys[1], (4, 5)))
    labels = jax.random.randint(keys[2], (2, time), 0, 5)
    expected = jnp.take_along_axis(jax.nn.log_softmax(outputs.logits), labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(token_log_probabilities(outputs, labels, chunk), expected, atol=1e-5)


@pytest.mark.parametrize("learns", ["hidden", "head", "both"])
def test_gradients_of_chunked_log_probabilities_equal_the_plain_ones(learns):
    keys = jax.random.split(jax.random.key(0), 4)
    hidden, head = jax.random.normal(keys[0], (2, 7, 4)), jax.random.normal(keys[1], (4, 5))
    labels, mix = jax.random.randint(keys[2], (2, 7), 0, 5), jax.random.normal(keys[3], (2, 7))
    arguments = {"hidden": (0,), "head": (1,), "both": (0, 1)}[learns]

    def nonlinear(log_probabilities):
        return jnp.tanh(jnp.sum(mix * log_probabilities))

    def chunked(hidden, head):
        return nonlinear(token_log_probabilities(Outputs(hidden, head), labels, 3))

    def plain(hidden, head):
        everything = jax.nn.log_softmax(hidden @ head)
        return nonlinear(jnp.take_along_axis(everything, labels[..., None], -1)[..., 0])

    for ours, expected in zip(*(jax.grad(f, arguments)(hidden, head) for f in (chunked, plain)), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
    second = [jax.grad(lambda h, f=f: jnp.sum(jax.grad(f)(h, head) ** 2))(hidden) for f in (chunked, plain)]
    np.testing.assert_allclose(*second, rtol=1e-4, atol=1e-6)


def test_a_frozen_head_makes_logits_once():
    hidden, head, labels = jnp.ones((2, 6, 4)), jnp.ones((4, 5)), jnp.ones((2, 6), jnp.int32)

    def loss(hidden):
        return jnp.sum(token_log_probabilities(Outputs(hidden, head), labels, 3) ** 2)

    # A chunk's logits, and the gradient of its hidden states.
    assert len(re.findall(r"= (product|dot_general)\b", str(jax.make_jaxpr(jax.grad(loss))(hidden)))) == 2


def test_negative_labels_do_not_count():
    outputs = Outputs(jnp.eye(4)[:, :3], jnp.arange(6.0).reshape(3, 2))
    labels = jnp.array([0, -100, 1, -100])
    expected = cross_entropy(Outputs(outputs.hidden[jnp.array([0, 2])], outputs.unembedding), jnp.array([0, 1]))
    np.testing.assert_allclose(cross_entropy(outputs, labels), expected, rtol=1e-6)
    np.testing.assert_allclose(mean_cross_entropy(outputs, {"labels": labels}), expected, rtol=1e-6)


def test_a_label_that_is_no_class_is_not_passed_over():
    outputs = Outputs(hidden=jnp.ones((2, 3)), unembedding=jnp.ones((3, 4)))
    assert jnp.isnan(cross_entropy(outputs, jnp.array([0, 4])))
    assert jnp.isfinite(cross_entropy(outputs, jnp.array([0, 3])))


def test_a_batch_that_counts_nothing_gives_zero_not_nan():
    outputs = Outputs(jnp.ones((2, 3)), jnp.ones((3, 4)))
    assert cross_entropy(outputs, jnp.array([-1, -1])) == 0.0


def test_the_softcap_bounds_the_logits():
    outputs = Outputs(100 * jnp.ones((1, 3)), jnp.ones((3, 2)), softcap=30.0)
    np.testing.assert_allclose(outputs.logits, 30 * np.tanh(300 / 30), rtol=1e-6)


def test_the_gradient_of_tokens_scatters_nothing():
    hidden, head, labels = jnp.ones((2, 3, 4)), jnp.ones((4, 7)), jnp.array([[0, 6, -100], [3, 3, 1]])

    def loss(hidden, head):
        return cross_entropy(Outputs(hidden=hidden, unembedding=head), labels, chunk=2)

    program = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(hidden, head))
    assert "dot_general" in program and "scatter" not in program and "gather" not in program


def test_a_head_that_learns_takes_chunks_with_as_many_rows_as_it_has_inputs(monkeypatch):
    monkeypatch.setattr("ft_jax.core.losses.MOST_LOGITS", 4 * 100)
    outputs = Outputs(hidden=jnp.ones((2, 64, 24)), unembedding=jnp.ones((24, 100)))
    assert default_chunk(outputs) == 2
    assert chunk_sizes(outputs) == (2, 16) and chunk_sizes(outputs, 5) == (5, 5)
    labels = jnp.zeros((2, 64), jnp.int32)

    def loss(hidden, head):
        return cross_entropy(Outputs(hidden=hidden, unembedding=head), labels)

    for argnums, length in ((0, 32), ((0, 1), 4)):
        program = str(jax.make_jaxpr(jax.grad(loss, argnums=argnums))(outputs.hidden, outputs.unembedding))
        assert f"length={length}\n" in program
    chunked = jax.value_and_grad(loss, argnums=(0, 1))(outputs.hidden, outputs.unembedding)
    monkeypatch.undo()
    chex.assert_trees_all_close(chunked, jax.value_and_grad(loss, argnums=(0, 1))(outputs.hidden, outputs.unembedding))
