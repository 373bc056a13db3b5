"""Methods that keep earlier tasks: closed forms on small problems."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ft_jax import incremental
from ft_jax.core import Outputs, make_step
from ft_jax.core.quadratic import above
from ft_jax.incremental.constrained import projected


def test_gems_gradient_is_the_nearest_that_no_task_objects_to():
    old = jax.random.normal(jax.random.key(0), (2, 4))
    for seed in range(10):
        gradient = jax.random.normal(jax.random.key(seed + 1), (4,))
        found = projected(gradient, old, jnp.array([True, True]), 0.0)
        # The slow way: of the gradient, its projections onto either and onto both boundaries, the nearest allowed.
        candidates = [gradient]
        for rows in (old[:1], old[1:], old):
            candidates.append(gradient - rows.T @ jnp.linalg.solve(rows @ rows.T, rows @ gradient))
        allowed = [one for one in candidates if jnp.min(old @ one) > -1e-4]
        nearest = min(allowed, key=lambda one: float(jnp.sum((one - gradient) ** 2)))
        np.testing.assert_allclose(found, nearest, atol=1e-3)


def test_more_unknowns_than_cases_are_solved_to_the_same_conditions():
    rows = jax.random.normal(jax.random.key(0), (10, 30))
    matrix, linear = rows @ rows.T, jax.random.normal(jax.random.key(1), (10,))
    found = above(matrix, linear, jnp.zeros(10))
    slope = matrix @ found + linear
    assert jnp.min(found) >= 0 and jnp.min(slope) > -1e-3 and abs(float(found @ slope)) < 1e-3


def line(params, batch, context):
    """A loss that is linear in the weights, whose gradient is the batch's mean row."""
    w = context.join(params)["model"]["w"]
    return {"task": jnp.mean(batch["x"] @ w)}, Outputs(hidden=batch["x"])


def two_tasks(method):
    first = {"x": jnp.tile(jnp.array([[1.0, 0.0]]), (4, 1))}
    program = make_step(line, optax.sgd(0.1), method(first))
    state = program.init({"w": jnp.zeros(2)}, jax.random.key(0))
    state, _ = program.step(state, first)
    state = program.after_task(state, jax.tree.map(lambda x: x[None], first))
    state, _ = program.step(state, {"x": jnp.tile(jnp.array([[-2.0, 1.0]]), (4, 1))})
    return state


def test_the_second_task_does_not_undo_the_first():
    for method in (lambda like: incremental.gem(2, 4, like), lambda like: incremental.agem(4, 2, like)):
        # The first step goes to -0.1, 0; of the second what opposes it is taken away.
        np.testing.assert_allclose(two_tasks(method).params["model"]["w"], [-0.1, -0.1], atol=1e-5)


def test_synaptic_importance_is_what_the_path_lowered_over_how_far_it_went():
    state = two_tasks(lambda _: incremental.synaptic_intelligence(weight=0.0, damping=0.5))
    importance = state.memory["incremental.synaptic_intelligence"]["importance"]["w"]
    np.testing.assert_allclose(importance, [0.1 / (0.01 + 0.5), 0.0], rtol=1e-5)


def test_evaluation_sees_the_mean_of_the_tasks_ends():
    method = incremental.averaging()
    batch = {"x": jnp.ones((2, 2))}
    program = make_step(line, optax.sgd(0.1), method)
    state = program.init({"w": jnp.zeros(2)}, jax.random.key(0))
    for _ in range(3):
        state, _ = program.step(state, batch)
        state = program.after_task(state, jax.tree.map(lambda x: x[None], batch))
    np.testing.assert_allclose(program.parameters(state)["model"]["w"], [-0.2, -0.2], rtol=1e-5)
    np.testing.assert_allclose(state.params["model"]["w"], [-0.3, -0.3], rtol=1e-5)


def classified(params, batch, context):
    outputs = Outputs(hidden=batch["x"], unembedding=context.join(params)["model"]["w"])
    log = jax.nn.log_softmax(outputs.logits)
    return {"task": -jnp.mean(jnp.take_along_axis(log, batch["labels"][:, None], 1))}, outputs


def test_der_and_lwf_add_the_distance_to_what_the_model_answered():
    batch = {"x": jnp.eye(2), "labels": jnp.array([0, 1])}
    start = {"w": jnp.array([[1.0, 0.0], [0.0, -1.0]])}
    der = make_step(classified, optax.sgd(0.0), incremental.der(1, 1, batch, 2, alpha=1.0, beta=0.5))
    state = der.init(start, jax.random.key(0))
    state, _ = der.step(state, batch)
    moved = state.replace(params={**state.params, "model": {"w": start["w"] + 2.0}})
    _, metrics = der.step(moved, batch)
    # Both logits of the one that is remembered moved by 2; its label's loss is that of either row.
    log = jax.nn.log_softmax(start["w"])
    assert any(np.isclose(metrics["incremental.der"], 4.0 - 0.5 * log[i, i], rtol=1e-5) for i in range(2))
    lwf = make_step(classified, optax.sgd(0.0), incremental.lwf(weight=3.0, temperature=2.0))
    state = lwf.after_task(lwf.init(start, jax.random.key(0)), jax.tree.map(lambda x: x[None], batch))
    moved = state.replace(params={**state.params, "model": {"w": -start["w"]}})
    _, metrics = lwf.step(moved, batch)
    old, new = jax.nn.softmax(start["w"] / 2), jax.nn.softmax(-start["w"] / 2)
    expected = 3.0 * 4.0 * jnp.mean(jnp.sum(old * jnp.log(old / new), axis=1))
    np.testing.assert_allclose(metrics["incremental.lwf"], expected, rtol=1e-5)
