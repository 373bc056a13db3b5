"""O-LoRA: one task's update at a time, apart from the others'."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.core import Outputs, jit_step, make_step, materialize, matmul, supervised
from ft_jax.incremental import o_lora

INPUTS, OUTPUTS, RANK = 6, 3, 2


def linear(params, batch, key):
    return Outputs(hidden=matmul(params["layer"]["kernel"], batch["x"]), unembedding=jnp.eye(OUTPUTS))


def batch(seed):
    keys = jax.random.split(jax.random.key(seed))
    return {"x": jax.random.normal(keys[0], (16, INPUTS)), "labels": jax.random.randint(keys[1], (16,), 0, OUTPUTS)}


def test_each_task_moves_its_own_factors_alone_and_is_held_apart_from_those_before():
    base = jax.random.normal(jax.random.key(1), (INPUTS, OUTPUTS))
    method = o_lora(tasks=2, rank=RANK, alpha=2.0, weight=3.0, targets=("*layer/kernel",))
    # Weight decay and momentum would move factors whose gradient is 0.
    program = make_step(supervised(linear), optax.adamw(0.05, weight_decay=0.1), method)
    state = program.init({"layer": {"kernel": base}}, jax.random.key(0))
    step = jit_step(program.step)
    kernel = lambda state: state.params["model"]["layer"]["kernel"]  # noqa: E731
    start = np.asarray(kernel(state).a)
    state, metrics = step(state, batch(0))
    assert metrics["incremental.o_lora"] == 0
    for _ in range(9):
        state, _ = step(state, batch(0))
    first = {name: np.asarray(getattr(kernel(state), name)) for name in "ab"}
    assert np.abs(first["a"][:, :RANK] - start[:, :RANK]).max() > 0.01
    np.testing.assert_array_equal(first["a"][:, RANK:], start[:, RANK:])
    np.testing.assert_array_equal(first["b"][RANK:], 0)
    state = program.after_task(state, jax.tree.map(lambda x: x[None], batch(0)))
    state, metrics = step(state, batch(1))
    a = first["a"]
    expected = 3.0 * sum(float(a[:, i] @ a[:, RANK + j]) ** 2 for i in range(RANK) for j in range(RANK))
    np.testing.assert_allclose(metrics["incremental.o_lora"], expected, rtol=1e-4)
    for _ in range(60):
        state, metrics = step(state, batch(1))
    np.testing.assert_array_equal(kernel(state).a[:, :RANK], first["a"][:, :RANK])
    np.testing.assert_array_equal(kernel(state).b[:RANK], first["b"][:RANK])
    assert np.abs(np.asarray(kernel(state).b[RANK:])).max() > 0.01 and metrics["incremental.o_lora"] < 0.2 * expected
    seen = program.parameters(state)["model"]["layer"]["kernel"]
    np.testing.assert_allclose(materialize(seen), base + kernel(state).a @ kernel(state).b, rtol=1e-4, atol=1e-5)


def test_more_directions_than_inputs_are_refused():
    method = o_lora(tasks=4, rank=2, targets=("*layer/kernel",))
    program = make_step(supervised(linear), optax.sgd(0.1), method)
    with pytest.raises(ValueError, match="has 8 directions for 4 tasks, and model/layer/kernel has 6 inputs"):
        program.init({"layer": {"kernel": jnp.ones((INPUTS, OUTPUTS))}}, jax.random.key(0))
    with pytest.raises(ValueError, match="0 tasks of rank 8"):
        o_lora(tasks=0)
