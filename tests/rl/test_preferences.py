import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core import tiny
from rl.recorded import IDS, MASK, PAIRS, RECORD, table

from ft_jax.core import Outputs, compose, make_step, supervised
from ft_jax.core.method import Method
from ft_jax.rl import cpo, dft, dpo, kto, margins, orpo, process_reward, reward_model, simpo
from ft_jax.rl.pair_losses import LOSSES
from ft_jax.testing.pairs import composition, losses

BETA = RECORD["beta"]
TRL = {
    "sigmoid": "sigmoid",
    "length_normalised": "sigmoid_norm",
    "exo": "exo_pair",
    "nca": "nca_pair",
    "bco": "bco_pair",
    "sppo": "sppo_hard",
}


def apply(params, batch, key):
    """The recorded table of logits, a row for every ``row`` of the batch."""
    return Outputs(hidden=params["table"][batch["row"]][:, :-1], unembedding=jnp.eye(params["table"].shape[-1]))


def side(rows):
    return {"row": jnp.arange(4)[rows], "labels": IDS[rows, 1:], "weights": MASK[rows]}


PAIR_BATCH = {"chosen": side(slice(PAIRS)), "rejected": side(slice(PAIRS, None))}


def trained(method, batch):
    """``(terms of a step, gradient of the table)`` from the recorded logits, with the recorded reference."""
    seen = []

    def spy(state, event):
        seen.append(event.gradients["model"]["table"])
        return state

    program = make_step(supervised(apply), optax.sgd(0.0), compose(Method("spy", after_step=spy), method))
    state = program.init({"table": table("reference")}, jax.random.key(0))
    state = state.replace(params={**state.params, "model": {"table": table("logits")}})
    _, metrics = program.step(state, batch)
    return metrics, seen[0]


def equals(method, batch, case):
    metrics, gradient = trained(method, batch)
    np.testing.assert_allclose(metrics["loss"], case["loss"], rtol=2e-5)
    np.testing.assert_allclose(gradient, np.array(case["gradient"]), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_dpo_by_every_name_trains_as_trl(loss):
    smoothing = RECORD["smoothing"] if "smoothing" in LOSSES[loss].numbers else None
    method = dpo(beta=BETA, loss=loss, smoothing=smoothing)
    equals(method, PAIR_BATCH, RECORD["preferences"][TRL.get(loss, loss)])


def test_the_reference_free_methods_train_as_trl():
    cases = RECORD["reference_free"]
    equals(simpo(beta=BETA, gamma=0.5), PAIR_BATCH, cases["simpo"])
    equals(cpo(beta=BETA), PAIR_BATCH, cases["cpo"])
    equals(orpo(weight=BETA, sft=0.0), PAIR_BATCH, cases["orpo"])


def test_dft_trains_as_trl():
    equals(dft(), side(slice(None)), RECORD["dft"])


def judged():
    desirable = jnp.array(RECORD["kto"]["desirable"], jnp.float32)
    return {**side(slice(None)), "desirable": desirable}


def test_kto_trains_as_trl_at_the_recorded_divergence():
    case = RECORD["kto"]
    # The mismatched part is one token whose gain is the recorded divergence.
    rows = jnp.arange(4)
    gain = lambda name: jax.nn.log_softmax(table(name)[:, :-1])  # noqa: E731
    own = jnp.take_along_axis(gain("logits") - gain("reference"), IDS[:, 1:, None], axis=2)[:, 0, 0]
    scale = case["kl"] / jnp.mean(own)
    weights = jnp.zeros(MASK.shape).at[:, 0].set(scale)
    if scale < 0:
        pytest.fail("choose another token: the weights of the mismatched part would be negative")
    batch = {**judged(), "mismatched": {"row": rows, "labels": IDS[:, 1:], "weights": weights}}
    method = kto(apply, beta=BETA, desirable=1.0, undesirable=0.7)
    equals(method, batch, case)


def test_several_losses_at_once_are_the_sum_and_share_the_forward_passes():
    calls = []

    def counting(params, batch, context):
        calls.append(context.train)
        return supervised(apply)(params, batch, context)

    both = compose(
        dpo(beta=BETA, loss="hinge", weight=0.5, name="rl.hinge", reference="given"),
        simpo(beta=BETA, gamma=0.5, weight=2.0),
        dpo(beta=BETA, loss="ipo", weight=0.3),
    )
    program = make_step(counting, optax.sgd(0.0), both, predict=lambda outputs, batch: margins(outputs, "rl.hinge"))
    state = program.init({"table": table("reference")}, jax.random.key(0))
    state = state.replace(params={"model": {"table": table("logits")}})
    calls.clear()
    _, metrics = program.step(state, PAIR_BATCH)
    assert sorted(calls) == [False, True]
    cases, free = RECORD["preferences"], RECORD["reference_free"]
    wanted = 0.5 * cases["hinge"]["loss"] + 2.0 * free["simpo"]["loss"] + 0.3 * cases["ipo"]["loss"]
    np.testing.assert_allclose(metrics["loss"], wanted, rtol=2e-5)
    assert program.evaluate(state, PAIR_BATCH).predictions.shape == (PAIRS,)


def test_given_references_train_as_a_snapshot():
    reference = jax.nn.log_softmax(table("reference")[:, :-1])
    known = jnp.sum(MASK * jnp.take_along_axis(reference, IDS[:, 1:, None], axis=2)[..., 0], axis=1)
    batch = {
        "chosen": {**PAIR_BATCH["chosen"], "reference": known[:PAIRS]},
        "rejected": {**PAIR_BATCH["rejected"], "reference": known[PAIRS:]},
    }
    method = dpo(beta=BETA, reference="given")
    assert method.memory is None
    equals(method, batch, RECORD["preferences"]["sigmoid"])
    with pytest.raises(KeyError, match="reference='given', but the sides have no field 'reference'"):
        trained(method, PAIR_BATCH)


def test_a_reward_model_subtracts_margins_and_centres_as_trl():
    case = RECORD["reward_model"]
    scores = jnp.array(case["scores"])
    model = lambda params, batch, key: Outputs(  # noqa: E731
        hidden=params["scores"][batch["row"]][:, None], unembedding=jnp.ones((1, 1))
    )
    labels = jnp.zeros((4, 2), jnp.int32)
    part = lambda rows: {"row": jnp.arange(4)[rows], "labels": labels[rows]}  # noqa: E731
    batch = {
        "chosen": {**part(slice(2)), "margin": jnp.array(case["margin"])},
        "rejected": part(slice(2, None)),
    }
    method = reward_model(model, batch, centre=0.2, own_head=False)
    plain = lambda params, batch, context: ({}, context.run(model, params, batch))  # noqa: E731
    seen = []
    spy = Method("spy", after_step=lambda state, event: seen.append(event.gradients["model"]["scores"]) or state)
    program = make_step(plain, optax.sgd(0.0), compose(spy, method))
    _, metrics = program.step(program.init({"scores": scores}, jax.random.key(0)), batch)
    np.testing.assert_allclose(metrics["loss"], case["loss"], rtol=1e-5)
    np.testing.assert_allclose(seen[0], np.array(case["gradient"])[:, 0], rtol=1e-4, atol=1e-6)


def test_the_laws_pairs_teach_a_reward_model():
    first, last, trains = losses(composition("rl.reward_model"))
    assert trains and last < first / 2


def test_steps_are_judged_at_their_marks_alone():
    batch = tiny.batch()
    marks = jnp.full(batch["labels"].shape, -1).at[:, 2].set(1).at[0, 1].set(0)
    method = process_reward(tiny.apply, batch)
    program = make_step(
        supervised(tiny.apply), optax.sgd(0.1), method, predict=lambda o, b: o.states["rl.process_reward"]
    )
    state = program.init(tiny.params(), jax.random.key(0))
    _, metrics = program.step(state, {**batch, "marks": marks})
    scores = program.evaluate(state, {**batch, "marks": marks}).predictions
    said = [-np.log(scores[row, 2]) for row in range(tiny.BATCH)] + [-np.log(1 - scores[0, 1])]
    np.testing.assert_allclose(metrics["rl.process_reward"], np.mean(said), rtol=1e-4)
    with pytest.raises(KeyError, match="trains on 'marks'"):
        program.step(state, batch)


def test_an_empty_pair_counts_nothing():
    silent = jax.tree.map(lambda x: jnp.concatenate([x, x[:1]]), PAIR_BATCH)
    empty = lambda part: {**part, "weights": part["weights"].at[-1].set(0.0)}  # noqa: E731
    batch = {name: empty(part) for name, part in silent.items()}
    for method in (dpo(beta=BETA), simpo(beta=BETA), orpo()):
        one, other = trained(method, batch), trained(method, PAIR_BATCH)
        np.testing.assert_allclose(one[0]["loss"], other[0]["loss"], rtol=1e-5)
        np.testing.assert_allclose(one[1], other[1], rtol=1e-4, atol=1e-6)


def test_what_can_not_be_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="rl.dpo has no loss 'ippo'; the nearest are ipo"):
        dpo(loss="ippo")
    with pytest.raises(ValueError, match="loss='ipo' takes no smoothing, got 0.1; robust, exo, aot"):
        dpo(loss="ipo", smoothing=0.1)
    with pytest.raises(ValueError, match="smoothing=0.5; give a share of wrong preferences below 0.5"):
        dpo(loss="robust", smoothing=0.5)
    with pytest.raises(ValueError, match="below 0.5 and above 0"):
        dpo(loss="exo", smoothing=0.0)
    with pytest.raises(ValueError, match="reference='frozen'; use 'start' or 'given'"):
        dpo(reference="frozen")
    with pytest.raises(KeyError, match="trains on answers that are 'desirable'"):
        trained(kto(apply), side(slice(None)))
    with pytest.raises(KeyError, match="the part 'mismatched', but the batch has none"):
        trained(kto(apply), judged())
    program = make_step(supervised(apply), optax.sgd(0.0), kto(apply, divergence=False))
    program.step(program.init({"table": table("logits")}, jax.random.key(0)), judged())
