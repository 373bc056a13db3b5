from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core import tiny

from ft_jax.core import Outputs, compose, make_step, never, optimizer, supervised
from ft_jax.core.method import Method
from ft_jax.rl import dpo, margins

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "trl_dpo.npz")
PAIRS = GOLDEN["input_ids"].shape[0] // 2


def llama(params, batch, key):
    """transformers' Llama without layers: table, root-mean-square norm, head."""
    hidden = params["table"][batch["input_ids"]]
    hidden = hidden * jax.lax.rsqrt(jnp.mean(hidden**2, axis=-1, keepdims=True) + 1e-6) * params["norm"]
    return Outputs(hidden=hidden, unembedding=params["head"])


def recorded(prefix):
    names = {"table": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"}
    arrays = {own: jnp.asarray(GOLDEN[f"{prefix}/{name}"]) for own, name in names.items()}
    return {**arrays, "head": arrays["head"].T}


def recorded_batch():
    ids, completion = GOLDEN["input_ids"], GOLDEN["completion_mask"]
    fields = {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "weights": completion[:, 1:].astype(np.float32)}
    side = lambda rows: {name: jnp.asarray(value[rows]) for name, value in fields.items()}  # noqa: E731
    return {"chosen": side(slice(PAIRS)), "rejected": side(slice(PAIRS, None))}


def pairs():
    batch = tiny.batch()
    return {"chosen": batch, "rejected": {**batch, "labels": jnp.roll(batch["labels"], 1, axis=1)}}


@pytest.mark.parametrize(("case", "sft"), [("dpo", None), ("dpo", 0.0), ("dpo_sft", float(GOLDEN["sft"]))])
@pytest.mark.parametrize("chunk", [3, 100])
def test_loss_rewards_and_gradients_equal_trls(case, sft, chunk):
    seen = []

    def spy(state, event):
        seen.append((event.gradients, event.terms))
        return state

    method = compose(Method("spy", after_step=spy), dpo(beta=float(GOLDEN["beta"]), sft=sft))
    program = make_step(supervised(llama, chunk=chunk), optax.sgd(0.0), method, predict=lambda o, b: o.states)
    state = program.init(recorded("reference"), jax.random.key(0))
    state = state.replace(params={"model": recorded("policy")})
    _, metrics = program.step(state, recorded_batch())
    np.testing.assert_allclose(metrics["loss"], GOLDEN[f"{case}/loss"], rtol=1e-5)
    for name, expected in recorded(f"{case}/gradient").items():
        np.testing.assert_allclose(seen[0][0]["model"][name], expected, rtol=1e-4, atol=1e-5)
    _, states, _ = program.evaluate(state, recorded_batch())
    for side in ("chosen", "rejected"):
        mean = jnp.mean(states[f"rl.dpo/{side}"])
        np.testing.assert_allclose(mean, GOLDEN[f"{case}/rewards/{side}"], rtol=1e-4)


def test_training_makes_chosen_answers_likelier_than_rejected_ones():
    build = optimizer(optax.sgd, learning_rate=1.0)
    program = make_step(supervised(tiny.apply), build, dpo(), predict=lambda outputs, batch: margins(outputs))
    state = program.init(tiny.params(), jax.random.key(0))
    batch = pairs()
    _, before, _ = program.evaluate(state, batch)
    np.testing.assert_allclose(before, 0.0, atol=1e-5)
    step = jax.jit(program.step, donate_argnums=0)
    for _ in range(30):
        state, _ = step(state, batch)
    _, after, _ = program.evaluate(state, batch)
    assert after.shape == (tiny.BATCH,) and jnp.all(after > 0.1)


def test_the_loss_inside_runs_once_with_gradient_and_once_without():
    calls = []

    def counting(params, batch, context):
        calls.append((batch["input_ids"].shape[0], context.train))
        return supervised(tiny.apply)(params, batch, context)

    program = make_step(counting, optax.sgd(0.1), dpo())
    jax.eval_shape(program.step, program.init(tiny.params(), jax.random.key(0)), pairs())
    assert calls == [(2 * tiny.BATCH, True), (2 * tiny.BATCH, False)]


def test_the_reference_costs_only_what_learns():
    method = compose(dpo(), Method("thin", trainable=never("model/table", "model/layer/*")))
    program = make_step(supervised(tiny.apply), optax.sgd(0.1), method)
    state = program.init(tiny.params(), jax.random.key(0))
    assert [leaf.shape for leaf in jax.tree.leaves(state.memory["rl.dpo"])] == [(tiny.WIDTH, tiny.CLASSES)]


def test_terms_of_methods_inside_are_not_scaled_by_sft():
    extra = Method("extra", loss=lambda inner: lambda *a: ({**inner(*a)[0], "extra": jnp.float32(3)}, inner(*a)[1]))
    program = make_step(supervised(tiny.apply), optax.sgd(0.1), compose(dpo(sft=0.0), extra))
    _, metrics = program.step(program.init(tiny.params(), jax.random.key(0)), pairs())
    assert metrics["extra"] == 3 and metrics["task"] == 0


def test_without_sft_nothing_of_the_task_is_computed():
    def losing(sft):
        def loss(params, batch, context):
            terms, outputs = supervised(tiny.apply)(params, batch, context)
            return {"task": jnp.sin(terms["task"])}, outputs

        program = make_step(loss, optax.sgd(0.1), dpo(sft=sft))
        state = program.init(tiny.params(), jax.random.key(0))
        _, metrics = program.step(state, pairs())
        return sorted(metrics), jax.jit(program.step).lower(state, pairs()).compile().as_text()

    without, program = losing(None)
    assert "task" not in without and "sine(" not in program
    having, program = losing(0.0)
    assert "task" in having and "sine(" in program


def test_predictions_are_those_of_the_chosen():
    program = make_step(supervised(tiny.apply), optax.sgd(0.1), dpo())
    state = program.init(tiny.params(), jax.random.key(0))
    _, predictions, _ = program.evaluate(state, pairs())
    np.testing.assert_allclose(predictions, tiny.apply(tiny.params(), tiny.batch(), None).logits, rtol=1e-5)
    terms, predictions, _ = program.evaluate(state, tiny.batch())
    assert list(terms) == ["task"] and predictions.shape[0] == tiny.BATCH


def test_batches_that_are_not_pairs_are_refused():
    program = make_step(supervised(tiny.apply), optax.sgd(0.1), dpo())
    state = program.init(tiny.params(), jax.random.key(0))
    with pytest.raises(KeyError, match="rl.dpo trains on 'chosen' and 'rejected', but the batch has input_ids"):
        program.step(state, tiny.batch())
    batch = pairs()
    short = {**batch, "rejected": jax.tree.map(lambda x: x[:, :-1], batch["rejected"])}
    with pytest.raises(ValueError, match=r"chosen \[8, 12\] and rejected \[8, 11\]; pad both to one length"):
        program.step(state, short)
    classes = {**batch, "chosen": {**batch["chosen"], "labels": jnp.zeros(8, jnp.int32)}}
    with pytest.raises(ValueError, match=r"needs the labels \[pairs, time\] of tokens, but 'chosen' has labels \[8\]"):
        program.step(state, classes)
    more = {**batch, "chosen": {**batch["chosen"], "positions": jnp.zeros((8, 12), jnp.int32)}}
    with pytest.raises(ValueError, match="'positions' on one side only"):
        program.step(state, more)
