"""Optimizers of optax and optax.contrib by name."""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest

from ft_jax.core import Outputs, jit_step, make_step, supervised
from ft_jax.training import OptimizerSpec

RATES = {"dadapt_adamw": 1.0, "dog": 1.0, "dowg": 1.0, "cocob": 1.0, "momo": 1.0, "momo_adam": 1.0, "prodigy": 1.0}


def constructors():
    for room in (optax, optax.contrib):
        for name in dir(room):
            build = getattr(room, name)
            if name.startswith("scale_by"):
                continue
            if inspect.isfunction(build) and "learning_rate" in inspect.signature(build).parameters:
                signature = inspect.signature(build).parameters
                needed = [one for one, x in signature.items() if x.default is inspect.Parameter.empty]
                if set(needed) <= {"learning_rate"}:
                    yield name


@pytest.mark.parametrize("name", sorted(set(constructors())))
def test_every_optimizer_with_a_rate_alone_lowers_the_loss(name):
    def apply(params, batch, key):
        return Outputs(hidden=batch["x"], unembedding=params["w"])

    spec = OptimizerSpec(name, RATES.get(name, 0.05))
    program = make_step(supervised(apply), spec.build(40))
    batch = {"x": jax.random.normal(jax.random.key(0), (6, 5)), "labels": jnp.arange(6) % 3}
    state = program.init({"w": jnp.full((5, 3), 0.1)}, jax.random.key(1))
    step, losses = jit_step(program.step), []
    for _ in range(40):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0] and step.compilations() == 1


def test_whole_numbers_that_shape_an_optimizer_are_fixed_and_fractions_are_numbers_of_the_state():
    spec = OptimizerSpec("muon", 0.02, options={"ns_steps": 3, "beta": 0.9, "nesterov": False, "eps": 1})
    assert set(spec.build(10).hyper) == {"learning_rate", "beta", "eps", "weight_decay"}


def test_an_unknown_name_gives_the_nearest():
    with pytest.raises(ValueError, match="no optimizer 'prodigi'; the nearest are .*prodigy"):
        OptimizerSpec("prodigi").check()
