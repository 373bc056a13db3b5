"""What preference methods tell of their pairs beside the loss: means over the pairs that count, and no term."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import rl
from ft_jax.core import Method, Outputs, compose, jit_step, make_step, supervised
from ft_jax.core.outputs import TOLD


def apply(params, batch, key=None):
    return Outputs(hidden=params["table"][batch["input_ids"]], unembedding=params["head"])


def made(seed=0, rows=4):
    draw = np.random.default_rng(seed)
    params = {"table": jnp.asarray(draw.normal(size=(9, 5)), jnp.float32),
              "head": jnp.asarray(draw.normal(size=(5, 9)), jnp.float32)}  # fmt: skip

    def side():
        ids = draw.integers(0, 9, (rows, 7))
        labels = np.where(np.arange(6) >= 2, ids[:, 1:], -1)
        return {"input_ids": jnp.asarray(ids[:, :-1]), "labels": jnp.asarray(labels), "weights": jnp.ones((rows, 6))}

    return params, {"chosen": side(), "rejected": side()}


def log_probabilities(params, side):
    logits = np.asarray(params["table"])[np.asarray(side["input_ids"])] @ np.asarray(params["head"])
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    labels = np.asarray(side["labels"])
    taken = np.take_along_axis(logs, np.maximum(labels, 0)[..., None], -1)[..., 0]
    return (taken * (labels >= 0)).sum(1)


def test_accuracy_margin_and_lengths_are_those_of_plain_sums():
    params, batch = made()
    moved = jax.tree.map(lambda x: x + 0.3 * jnp.sin(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape), params)
    program = make_step(supervised(apply), optax.sgd(0.0), rl.dpo(beta=0.5))
    state = program.init(params, jax.random.key(0))
    start, first = program.step(state, batch)
    assert float(first["rl.dpo/accuracy"]) == 0.5 and float(first["rl.dpo/margin"]) == 0.0
    _, told = program.step(start.replace(params={"model": moved}), batch)
    gains = [log_probabilities(moved, batch[s]) - log_probabilities(params, batch[s]) for s in ("chosen", "rejected")]
    margin = 0.5 * (gains[0] - gains[1])
    np.testing.assert_allclose(told["rl.dpo/margin"], margin.mean(), rtol=1e-4)
    np.testing.assert_allclose(told["rl.dpo/chosen"], 0.5 * gains[0].mean(), rtol=1e-4, atol=1e-6)
    assert float(told["rl.dpo/accuracy"]) == pytest.approx((margin > 0).mean())
    assert float(told["rl.dpo/chosen_length"]) == 4.0
    assert float(told["loss"]) == pytest.approx(float(told["rl.dpo"]), rel=1e-6)


def test_a_pair_that_is_padding_counts_nothing():
    params, batch = made()
    silent = jnp.ones((4, 6)).at[3].set(0.0)
    padded = {side: {**fields, "weights": silent} for side, fields in batch.items()}
    short = {side: {name: x[:3] for name, x in fields.items()} for side, fields in batch.items()}
    program = make_step(supervised(apply), optax.sgd(0.0), rl.simpo())
    state = program.init(params, jax.random.key(0))
    one, other = (program.step(state, each)[1] for each in (padded, short))
    for what in ("accuracy", "margin", "chosen", "rejected", "chosen_length"):
        np.testing.assert_allclose(one[f"rl.simpo/{what}"], other[f"rl.simpo/{what}"], rtol=1e-5)


def test_micro_batches_and_members_tell_the_same():
    params, batch = made(rows=8)
    told = []
    for count in (1, 4):
        program = make_step(supervised(apply), optax.sgd(0.1), rl.dpo(), accumulate=count)
        state = program.init(params, jax.random.key(0))
        for _ in range(3):
            state, metrics = jit_step(program.step)(state, batch)
        told.append(metrics)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), *told)


def test_a_loss_of_ones_own_tells_a_number_an_example_without_a_gradient():
    def loss(inner):
        def told(params, batch, context):
            terms, outputs = inner(params, batch, context)
            rows = jnp.sum(context.join(params)["model"]["table"]) * jnp.arange(4.0)
            return terms, Outputs(outputs.hidden, outputs.unembedding, states={f"{TOLD}mine/rows": rows})

        return told

    params, batch = made()
    plain, watched = (
        make_step(supervised(apply), optax.sgd(0.1), method) for method in (compose(), Method("mine", loss=loss))
    )
    one, first = plain.step(plain.init(params, jax.random.key(0)), batch["chosen"])
    other, second = watched.step(watched.init(params, jax.random.key(0)), batch["chosen"])
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert float(second.pop("mine/rows")) == pytest.approx(float(jnp.sum(params["table"])) * 1.5, rel=1e-5)
    assert first.keys() == second.keys()
