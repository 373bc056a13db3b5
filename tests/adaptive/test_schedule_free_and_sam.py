"""Against optax's schedule-free, and sharpness-aware minimisation by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import adaptive
from ft_jax.core import Method, Outputs, compose, jit_step, make_step, optimizer, parameters, supervised

KEY = jax.random.key(0)
BATCHES = [
    {"x": jax.random.normal(jax.random.fold_in(KEY, at), (6, 3)), "labels": jnp.array([0, 1, 2, 3, 0, 1])}
    for at in range(7)
]


def apply(params, batch, key):
    return Outputs(hidden=batch["x"], unembedding=params["w"])


PARAMS = {"w": jax.random.normal(KEY, (3, 4))}
LOSS = supervised(apply)


def plain_gradient(params, batch):
    def loss(params):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(batch["x"] @ params["w"], batch["labels"]))

    return jax.grad(loss)(params)


@pytest.mark.parametrize("beta", [0.9, 0.5])
def test_schedule_free_is_optaxs_while_training_and_when_settled(beta):
    method = adaptive.schedule_free(beta)
    program = make_step(LOSS, optimizer(optax.sgd, learning_rate=0.3), method)
    state = program.init(PARAMS, KEY)
    step = jit_step(program.step)
    theirs = optax.contrib.schedule_free(optax.sgd(0.3), 0.3, b1=beta)
    params, known = PARAMS, theirs.init(PARAMS)
    for batch in BATCHES:
        state, _ = step(state, batch)
        updates, known = theirs.update(plain_gradient(params, batch), known, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(state.params["model"]["w"], params["w"], rtol=2e-5, atol=2e-6)
        settled = optax.contrib.schedule_free_eval_params(known, params)
        np.testing.assert_allclose(parameters(state, method)["model"]["w"], settled["w"], rtol=2e-5, atol=2e-6)


def test_sam_steps_by_the_gradient_at_the_worst_place_nearby():
    program = make_step(LOSS, optax.sgd(0.1), adaptive.sam(0.2), accumulate=2)
    state = program.init(PARAMS, KEY)
    params = PARAMS
    for batch in BATCHES[:3]:
        state, _ = program.step(state, batch)
        slope = plain_gradient(params, batch)
        size = 0.2 / jnp.linalg.norm(slope["w"])
        worst = {"w": params["w"] + size * slope["w"]}
        params = {"w": params["w"] - 0.1 * plain_gradient(worst, batch)["w"]}
        np.testing.assert_allclose(state.params["model"]["w"], params["w"], rtol=1e-5, atol=1e-6)


def test_what_is_inside_sam_asks_for_gradients_at_that_place():
    asked = []

    def reads(inner):
        def update(gradients, state, params=None, *, event):
            asked.append((gradients, event.gradient(BATCHES[0])))
            return inner.update(gradients, state, params, event=event)

        return optax.GradientTransformationExtraArgs(inner.init, update)

    method = compose(adaptive.sam(0.2), Method("reader", update=reads))
    program = make_step(LOSS, optax.sgd(0.1), method)
    program.step(program.init(PARAMS, KEY), BATCHES[0])
    ((own, again),) = asked
    np.testing.assert_allclose(own["model"]["w"], again["model"]["w"], rtol=1e-6)


@pytest.mark.parametrize("build", [lambda: adaptive.schedule_free(1.0), lambda: adaptive.sam(-1.0)])
def test_numbers_out_of_range_are_refused(build):
    with pytest.raises(ValueError, match="give a number"):
        build()
