import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.adaptive import uncertainty
from ft_jax.core import Outputs, compose, make_step, optimizer

NOISE = {"a": 0.5, "b": 2.0}


def two_regressions(params, batch, context):
    """Two tasks on one weight vector, each with its own noise in the targets."""
    model = context.join(params)["model"]
    terms = {task: jnp.mean((batch["x"] @ model["w"][task] - batch[task]) ** 2) for task in NOISE}
    return terms, Outputs(hidden=batch["x"])


def problem():
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (512, 3))
    truth = {"a": jnp.array([1.0, -1.0, 0.5]), "b": jnp.array([0.3, 0.2, -2.0])}
    batch = {"x": x}
    for task, key in zip(NOISE, keys[1:3], strict=True):
        batch[task] = x @ truth[task] + NOISE[task] * jax.random.normal(key, (512,))
    return {"w": {task: jnp.zeros(3) for task in NOISE}}, batch


def test_the_learned_variances_are_the_tasks_noise():
    params, batch = problem()
    method = uncertainty(("a", "b"), regression=("a", "b"))
    program = make_step(two_regressions, optimizer(optax.adam, learning_rate=0.05), method)
    state, step = program.init(params, jax.random.key(0)), jax.jit(program.step)
    for _ in range(600):
        state, _ = step(state, batch)
    for task, noise in NOISE.items():
        variance = float(jnp.exp(state.params["adaptive.uncertainty"][task]))
        residual = float(two_regressions_error(state, batch, task))
        assert variance == pytest.approx(residual, rel=0.02)
        assert variance == pytest.approx(noise**2, rel=0.15)


def two_regressions_error(state, batch, task):
    return jnp.mean((batch["x"] @ state.params["model"]["w"][task] - batch[task]) ** 2)


def test_the_terms_are_the_papers_equations():
    params, batch = problem()
    method = compose(uncertainty(("a", "b"), regression=("b",)))
    program = make_step(two_regressions, optax.sgd(0.0), method)
    state = program.init(params, jax.random.key(0))
    s = {"a": jnp.float32(0.7), "b": jnp.float32(-0.4)}
    state = state.replace(params={**state.params, "adaptive.uncertainty": s})
    terms, *_ = program.evaluate(state, batch)
    plain, *_ = make_step(two_regressions, optax.sgd(0.0)).evaluate(
        make_step(two_regressions, optax.sgd(0.0)).init(params, jax.random.key(0)), batch
    )
    np.testing.assert_allclose(terms["a"], np.exp(-0.7) * plain["a"], rtol=1e-6)
    np.testing.assert_allclose(terms["b"], 0.5 * np.exp(0.4) * plain["b"], rtol=1e-6)
    np.testing.assert_allclose(terms["adaptive.uncertainty"], (0.7 - 0.4) / 2, rtol=1e-6)


def test_a_term_that_is_not_there_is_refused_with_the_ones_that_are():
    params, batch = problem()
    program = make_step(two_regressions, optax.sgd(0.1), uncertainty(("a", "c")))
    with pytest.raises(KeyError, match="weighs term 'c', but the loss inside it has a, b"):
        program.step(program.init(params, jax.random.key(0)), batch)
    with pytest.raises(ValueError, match="name each in terms as well"):
        uncertainty(("a",), regression=("b",))
