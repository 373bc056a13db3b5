"""The temperature of sampling is a number of the state: what sets it is a run that began with it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.core import make_step, optimizer, supervised
from ft_jax.core.params import Params
from ft_jax.distillation import on_policy
from ft_jax.models import tiny_decoder
from ft_jax.rl.online import grpo, ppo, raft
from ft_jax.rl.online.grpo import even_tokens

NEW = 4
MODEL = tiny_decoder(jax.random.key(0), vocabulary=16, width=8, layers=1)
IDS = jax.random.randint(jax.random.key(1), (4, 5), 2, 16)
PROMPTS = {"input_ids": IDS, "attention_mask": jnp.ones_like(IDS)}
TEXTS = {"input_ids": IDS, "labels": jnp.where(jnp.arange(5) < 2, -1, IDS)}
KINDS = {
    "rl.grpo": lambda **how: grpo(MODEL.apply, PROMPTS, even_tokens, samples=2, max_new_tokens=NEW, **how),
    "rl.ppo": lambda **how: ppo(MODEL.apply, PROMPTS, even_tokens, samples=2, max_new_tokens=NEW, **how),
    "rl.raft": lambda **how: raft(MODEL.apply, even_tokens, samples=2, max_new_tokens=NEW, **how),
    "distillation.on_policy": lambda **how: on_policy(MODEL.apply, share=1.0, max_new_tokens=NEW, **how),
}


def trained(method, steps: int = 1, at: dict[int, dict[str, float]] | None = None) -> Params:
    """What is learned after some steps, numbers of the state set before some of them."""
    program = make_step(supervised(MODEL.apply), optimizer(optax.sgd, learning_rate=0.3), method)
    state, step = program.init(MODEL.params, jax.random.key(3)), jax.jit(program.step)
    for number in range(steps):
        state = state.with_hyper((at or {}).get(number, {}))
        state, _ = step(state, TEXTS if "distillation.on_policy" in state.hyper else PROMPTS)
    assert step._cache_size() == 1
    return state.params


def alike(one, other) -> bool:
    return all(
        np.allclose(a, b, rtol=1e-5, atol=1e-7)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.mark.parametrize("name", KINDS)
def test_a_temperature_that_is_set_is_one_that_a_run_began_with(name):
    make, number = KINDS[name], f"{name}.temperature"
    several = {"epochs": 1, "minibatches": 1} if name == "rl.ppo" else {}
    own = trained(make(temperature=0.4, **several), 2)
    assert alike(own, trained(make(**several), 2, {0: {number: 0.4}}))
    assert not alike(own, trained(make(**several), 2))


@pytest.mark.parametrize("name", ["rl.grpo", "rl.ppo"])
def test_a_rollout_for_several_updates_is_learned_at_the_temperature_that_it_was_sampled_at(name):
    make, number = KINDS[name], f"{name}.temperature"
    method = make(temperature=0.7, epochs=2, minibatches=1)
    plain = trained(method, 2)
    assert alike(plain, trained(method, 2, {1: {number: 2.0}}))
    assert not alike(trained(method, 3), trained(method, 3, {2: {number: 2.0}}))


def test_a_model_that_caps_its_logits_is_sampled_at_one_and_has_no_such_number():
    capped = tiny_decoder(jax.random.key(0), vocabulary=16, width=8, layers=1)
    config = dataclasses.replace(capped.config, logit_softcap=5.0)
    apply = dataclasses.replace(capped.apply, config=config)
    method = grpo(apply, PROMPTS, even_tokens, samples=2, max_new_tokens=NEW)
    assert "temperature" not in method.hyper
    program = make_step(supervised(apply), optimizer(optax.sgd, learning_rate=0.3), method)
    _, metrics = jax.jit(program.step)(program.init(capped.params, jax.random.key(3)), PROMPTS)
    assert np.isfinite(metrics["loss"])
    with pytest.raises(ValueError, match=r"temperature 0\.5 from a model that caps its logits.*sample at 1"):
        grpo(apply, PROMPTS, even_tokens, samples=2, max_new_tokens=NEW, temperature=0.5)
