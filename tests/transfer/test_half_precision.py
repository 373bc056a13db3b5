"""Small updates count on parameters in half precision, through a float32 copy or in the mean of chance."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.small import Linear, experiment

from ft_jax import models
from ft_jax.core import Outputs, compose, make_step, optimizer, supervised
from ft_jax.training import OptimizerSpec, Use, prepare
from ft_jax.transfer import master_copies, stochastic_rounding
from ft_jax.transfer.half_precision import in_half, rounded_by_chance

HALVES = [jnp.bfloat16, jnp.float16]


@pytest.fixture(scope="module")
def tiny():
    return models.tiny_decoder(jax.random.key(0), layers=1)


def tokens(seed=0):
    ids = jax.random.randint(jax.random.key(seed), (8, 9), 0, 32)
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}


def trained(model, method, dtype, steps=30, rate=1e-4, **options):
    """Losses of a fixed batch, and the last state."""
    program = make_step(supervised(model.apply), optimizer(optax.adam, learning_rate=rate), method, **options)
    state = program.init(jax.tree.map(lambda x: x.astype(dtype), model.params), jax.random.key(1))
    step, losses = jax.jit(program.step), []
    for _ in range(steps):
        state, metrics = step(state, tokens())
        losses.append(float(metrics["loss"]))
    return np.array(losses), state


def test_without_either_small_steps_are_lost_and_with_either_they_count(tiny):
    full, _ = trained(tiny, compose(), jnp.float32)
    lost, _ = trained(tiny, compose(), jnp.bfloat16)
    gained = full[0] - full[-1]
    assert lost[0] - lost[-1] < 0.7 * gained
    for method in (master_copies(), stochastic_rounding()):
        kept, state = trained(tiny, compose(method), jnp.bfloat16)
        assert abs((kept[0] - kept[-1]) - gained) < 0.2 * gained
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("dtype", HALVES)
def test_parameters_are_the_copy_rounded_and_moments_are_float32(tiny, dtype):
    _, state = trained(tiny, compose(master_copies()), dtype, steps=3)
    for own, master in zip(jax.tree.leaves(state.params), jax.tree.leaves(state.opt_state.master), strict=True):
        assert own.dtype == dtype and master.dtype == jnp.float32
        np.testing.assert_array_equal(own, master.astype(dtype))
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state.inner) if leaf.ndim > 0]
    assert {leaf.dtype for leaf in moments} == {np.dtype(np.float32)}


def test_the_copy_moves_as_float32_training_at_the_rounded_gradients_does():
    def loss(params, batch, context):
        w = params["model"]["w"].astype(jnp.float32)
        return {"task": jnp.sum(w * batch["slope"][0])}, Outputs(hidden=batch["slope"])

    slopes = np.random.default_rng(0).normal(size=(12, 1, 5)).astype(np.float32)
    program = make_step(loss, optax.adam(1e-3), compose(master_copies()))
    state = program.init({"w": jnp.linspace(0.5, 2.0, 5).astype(jnp.bfloat16)}, jax.random.key(0))
    reference = jnp.linspace(0.5, 2.0, 5).astype(jnp.bfloat16).astype(jnp.float32)
    plain = optax.adam(1e-3)
    moments = plain.init(reference)
    for slope in slopes:
        state, _ = program.step(state, {"slope": jnp.asarray(slope)})
        gradient = jnp.asarray(slope[0]).astype(jnp.bfloat16).astype(jnp.float32)
        updates, moments = plain.update(gradient, moments, reference)
        reference = optax.apply_updates(reference, updates)
    np.testing.assert_allclose(state.opt_state.master["model"]["w"], reference, rtol=1e-6)


@pytest.mark.parametrize("method", [master_copies(), stochastic_rounding()])
def test_float32_parameters_train_as_without(tiny, method):
    with_it, one = trained(tiny, compose(method), jnp.float32, steps=3)
    without, other = trained(tiny, compose(), jnp.float32, steps=3)
    np.testing.assert_array_equal(with_it, without)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", HALVES)
def test_rounding_by_chance_gives_a_neighbour_and_the_right_mean(dtype):
    x = jnp.array([1.001, -3.7e-3, 0.0, 65.3, -1.0], jnp.float32)
    made = rounded_by_chance(jnp.tile(x, (4000, 1)), dtype, jax.random.key(0)).astype(jnp.float32)
    gap = jnp.abs(jnp.nextafter(x.astype(dtype), jnp.array(jnp.inf, dtype)) - x.astype(dtype)).astype(jnp.float32)
    assert bool(jnp.all(jnp.abs(made - x) <= 2 * gap))
    np.testing.assert_allclose(made.mean(axis=0), x, atol=float(0.05 * gap.max()), rtol=2e-4)
    assert bool(jnp.all(made[:, jnp.array([2, 4])] == x[jnp.array([2, 4])]))


@dataclasses.dataclass(frozen=True)
class Half(Linear):
    """A model whose parameters are bfloat16."""

    def build(self, key):
        made = super().build(key)
        return dataclasses.replace(made, params=jax.tree.map(lambda x: x.astype(jnp.bfloat16), made.params))


@pytest.mark.parametrize(
    ("model", "spec", "method", "names"),
    [
        (Half(), OptimizerSpec("adam"), (), ("transfer.master_copies",)),
        (Half(), OptimizerSpec("adam", half_precision="stochastic"), (), ("transfer.stochastic_rounding",)),
        (Half(), OptimizerSpec("adam", half_precision="none"), (), ()),
        (Half(), OptimizerSpec("adam"), (Use("transfer.stochastic_rounding"),), ("transfer.stochastic_rounding",)),
        (Linear(), OptimizerSpec("adam"), (), ()),
    ],
)
def test_runs_have_copies_by_default_where_halves_learn(model, spec, method, names):
    plan = prepare(experiment(model=model, optimizer=spec, method=method))
    assert tuple(name for name in plan.composition.names if name.startswith("transfer.")) == names
    assert in_half(plan.abstract.params) == isinstance(model, Half)
