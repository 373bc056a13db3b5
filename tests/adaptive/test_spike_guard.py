"""A spike is skipped or clipped, counted, and leaves no trace in the optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.adaptive import spike_guard
from ft_jax.core import Outputs, make_step


def pull(params, batch, context):
    return {"task": jnp.mean(batch["x"] @ context.join(params)["model"]["w"])}, Outputs(hidden=batch["x"])


def run(method, pulls, optimizer=None):
    optimizer = optimizer or optax.adam(0.1)
    program = make_step(pull, optimizer, method) if method else make_step(pull, optimizer)
    state, step = program.init({"w": jnp.zeros(2)}, jax.random.key(0)), jax.jit(program.step)
    for one in pulls:
        state, metrics = step(state, {"x": jnp.full((2, 2), one)})
    return np.asarray(state.params["model"]["w"]), metrics


CALM = [1.0, 1.1, 0.9, 1.0, 1.05]


@pytest.mark.parametrize("spike", [1000.0, float("nan"), float("inf")])
def test_a_skipped_spike_is_as_if_it_had_not_been(spike):
    guard = spike_guard(window=8, warmup=4)
    found, metrics = run(guard, [*CALM, spike, 1.0])
    np.testing.assert_array_equal(found, run(None, [*CALM, 1.0])[0])
    assert metrics["adaptive.spike_guard.skipped"] == 1


def test_a_clipped_spike_goes_as_far_as_the_limit():
    norms = np.sqrt(2) * np.array(CALM)
    limit = norms.mean() + 3 * norms.std()
    found, metrics = run(spike_guard(3.0, "clip", window=8, warmup=4), [*CALM, 1000.0], optax.sgd(1.0))
    np.testing.assert_allclose(found, -(sum(CALM) + limit / np.sqrt(2)), rtol=1e-5)
    assert metrics["adaptive.spike_guard.clipped"] == 1


def test_a_level_that_has_risen_is_learned():
    _, metrics = run(spike_guard(window=4, warmup=2), [*CALM, *[3.0] * 20])
    assert metrics["adaptive.spike_guard.skipped"] < 20
