"""Rollouts go through what methods do to the forward pass, as evaluation and training do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rl.online.test_online import NEW, model, prompts

from ft_jax.core import compose, make_step, optimizer, outputs_of, supervised
from ft_jax.core.method import Method
from ft_jax.rl.online import grpo, ppo, raft
from ft_jax.rl.online.grpo import even_tokens


def by_example():
    """A method whose forward pass looks at a field of the example, as one adapter for each prompt would."""

    def forward(inner):
        def pushed(params, batch, context):
            outputs = inner(params, batch, context)
            if "style" not in batch:
                return outputs
            towards = jnp.asarray(outputs.unembedding)[:, batch["style"]].T
            push = 8.0 * towards / jnp.linalg.norm(towards, axis=1, keepdims=True) ** 2
            return dataclasses.replace(outputs, hidden=outputs.hidden + push[:, None])

        return pushed

    return Method("by_example", forward=forward)


METHODS = {"rl.grpo": grpo, "rl.ppo": ppo, "rl.raft": raft}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("many", [1, 2])
def test_a_rollout_is_what_the_policy_says(name, many):
    """The sampler's log-probabilities are those of the pass that the loss takes, so ratios begin at one."""
    if name == "rl.raft" and many > 1:
        pytest.skip("it keeps no rollout")
    batch = {**prompts(), "style": jnp.array([3, 7, 7, 12])}
    how = {"samples": 2, "max_new_tokens": NEW}
    how |= {} if name == "rl.raft" else {"epochs": many}
    arguments = (model().apply, even_tokens) if name == "rl.raft" else (model().apply, batch, even_tokens)
    method = METHODS[name](*arguments, **how)
    seen = Method("spy", after_step=lambda state, event: state.remember("spy", event.batch))
    whole = compose(seen, method, by_example())
    program = make_step(supervised(model().apply), optimizer(optax.sgd, learning_rate=0.0), whole)
    state = program.init(model().params, jax.random.key(3))
    state, _ = jax.jit(program.step)(state, batch)
    rows = state.memory["spy"]
    np.testing.assert_array_equal(np.sort(rows["style"]), np.sort(np.repeat(batch["style"], len(rows["style"]) // 4)))
    state = state.replace(memory={one: kept for one, kept in state.memory.items() if one != "spy"})
    answered = jnp.where(rows["weights"] > 0, rows["labels"], 0)
    scores = jax.nn.log_softmax(outputs_of(state, whole, model().apply, rows).logits)
    own = jnp.take_along_axis(scores, answered[..., None], axis=2)[..., 0]
    likeliest = (rows["labels"] == rows["style"][:, None]) & (rows["weights"] > 0)
    # The push raises the logit of each prompt's token by 8.
    assert likeliest.sum() > 0.6 * (rows["weights"] > 0).sum()
    if "old" in rows:
        np.testing.assert_allclose(rows["old"], own * (rows["weights"] > 0), atol=1e-4)


def test_an_evaluation_answers_through_it_too():
    batch = {**prompts(), "style": jnp.array([3, 7, 7, 12])}
    method = grpo(model().apply, batch, even_tokens, samples=2, max_new_tokens=NEW)
    program = make_step(
        supervised(model().apply), optimizer(optax.sgd, learning_rate=0.0), compose(method, by_example()),
        predict=lambda outputs, batch: batch["tokens"],
    )  # fmt: skip
    state = program.init(model().params, jax.random.key(3))
    plain, steered = program.evaluate(state, prompts()).predictions, program.evaluate(state, batch).predictions
    assert not np.array_equal(plain, steered)
