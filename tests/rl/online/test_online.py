import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.core import compose, make_step, optimizer, supervised
from ft_jax.core.members import map_members
from ft_jax.core.method import Method
from ft_jax.models import tiny_decoder
from ft_jax.rl import advantages
from ft_jax.rl.online import RECIPES, grpo, matches_tokens, of_texts, on_host, ppo, raft
from ft_jax.rl.online.grpo import even_tokens
from ft_jax.rl.online.rollouts import Rollouts, entropies, policy_tokens

VOCABULARY, PROMPTS, TIME, NEW = 16, 4, 5, 4


@functools.cache
def model():
    return tiny_decoder(jax.random.key(0), vocabulary=VOCABULARY, width=8, layers=1)


def prompts(count=PROMPTS):
    ids = jax.random.randint(jax.random.key(1), (PROMPTS, TIME), 2, VOCABULARY)[:count]
    real = (jnp.arange(TIME) >= jnp.array([0, 2, 1, 0])[:count, None]).astype(jnp.int32)
    return {"input_ids": ids, "attention_mask": real}


def program_of(method, rate=0.0, **options):
    return make_step(supervised(model().apply), optimizer(optax.sgd, learning_rate=rate), method, **options)


def stepped(method, batch=None, steps=1, **options):
    """``(last state, batches that the loss saw, gradients, metrics)`` of some steps."""
    seen = []

    def remembered(state, event):
        return state.remember("spy", (event.batch, event.gradients))

    batch = prompts() if batch is None else batch
    spied = make_step(
        supervised(model().apply), optimizer(optax.sgd, learning_rate=options.get("rate", 0.0)),
        compose(Method("spy", after_step=remembered), method),
    )  # fmt: skip
    state, step = spied.init(model().params, jax.random.key(3)), jax.jit(spied.step)
    for _ in range(steps):
        state, metrics = step(state, batch)
        seen.append((*state.memory["spy"], metrics))
        state = state.replace(memory={name: x for name, x in state.memory.items() if name != "spy"})
    return state, [one[0] for one in seen], [one[1] for one in seen], [one[2] for one in seen]


def started(method):
    """A step and what it takes, to be traced."""
    program = program_of(method)
    return program.step, program.init(model().params, jax.random.key(0)), prompts()


def make(variant="grpo", **options):
    return grpo(
        model().apply, prompts(), options.pop("reward", even_tokens), variant=variant, samples=2, max_new_tokens=NEW,
        stop_tokens=(1,), **options,
    )  # fmt: skip


def test_the_samplers_log_probabilities_are_those_of_a_forward_pass():
    rollouts = Rollouts(model().apply, {"even": even_tokens}, 3, NEW, 0.7, (1, 5))
    program = program_of(make())
    state = program.init(model().params, jax.random.key(0))
    from ft_jax.core.step import _context

    context = _context(state, compose(make()))
    keys = jax.random.split(jax.random.key(2), 3 * PROMPTS)
    answers, sampled = rollouts.answers(context, state.params, prompts(), keys)
    assert len(set(answers.lengths.tolist())) > 1
    rows = rollouts.rows(answers, sampled, None)
    outputs = model().apply(model().params, rows)
    np.testing.assert_allclose(rows["sampler"], policy_tokens(outputs, rows, 0.7), atol=1e-4)
    assert rows["weights"].sum() == answers.lengths.sum()
    every = jax.nn.log_softmax(outputs.logits)
    np.testing.assert_allclose(entropies(outputs), -jnp.sum(jnp.exp(every) * every, -1), rtol=1e-4)


@pytest.mark.parametrize("variant", ["grpo", "dr_grpo", "dapo", "rloo"])
def test_the_first_gradient_is_the_policy_gradient_of_the_advantages(variant):
    _, (batch,), (gradient,), (metrics,) = stepped(make(variant))
    rewards = batch["reward"]
    estimate = {
        "grpo": lambda: advantages.group_relative(rewards, 2),
        "dapo": lambda: advantages.group_relative(rewards, 2),
        "dr_grpo": lambda: advantages.group_relative(rewards, 2, scale="none"),
        "rloo": lambda: advantages.leave_one_out(rewards, 2),
    }[variant]()
    lengths = batch["weights"].sum(1)

    def by_hand(params):
        tokens = batch["weights"] * policy_tokens(model().apply(params, batch), batch, 1.0)
        total = estimate * tokens.sum(1)
        counted = (lengths > 0).sum()
        if variant == "dapo":
            return -total.sum() / lengths.sum()
        if variant == "dr_grpo":
            return -(total / NEW).sum() / counted
        return -(total / (lengths if variant == "grpo" else 1.0)).sum() / counted

    wanted = jax.grad(by_hand)(model().params)
    for a, b in zip(jax.tree.leaves(gradient["model"]), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert np.isfinite(metrics["rl.grpo/entropy"])


def test_the_policy_that_answers_learns_to_be_rewarded():
    method = make(temperature=1.0)
    program = make_step(supervised(model().apply), optimizer(optax.adam, learning_rate=0.02), method)
    step = jax.jit(program.step)
    state = program.init(model().params, jax.random.key(0))
    rewards = []
    for _ in range(40):
        state, metrics = step(state, prompts())
        rewards.append(float(metrics["rl.grpo/reward"]))
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.2
    told = program.evaluate(state, prompts())
    assert told.predictions.shape[0] == PROMPTS


def test_a_padded_prompt_counts_nothing():
    whole = {**prompts(), "weights": jnp.array([1.0, 1.0, 1.0, 0.0])}
    for variant in ("dapo",):
        _, _, (one,), (told,) = stepped(make(variant), whole)
        _, _, (other,), _ = stepped(make(variant), prompts(3))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
        assert np.isfinite(told["loss"])


def test_a_rollout_serves_every_epoch_and_minibatch():
    _, batches, _, _ = stepped(make(epochs=2, minibatches=2), steps=5)
    rows = [np.asarray(batch["input_ids"]).tolist() for batch in batches]
    first, second = sorted(rows[0] + rows[1]), sorted(rows[2] + rows[3])
    assert first == second and rows[0] != rows[2]
    assert sorted(rows[4]) != sorted(rows[0])
    assert all("old" in batch for batch in batches)


@pytest.mark.parametrize("kind", ["grpo", "gspo", "ppo"])
def test_the_log_tells_what_was_clipped_and_how_far_the_policy_went(kind):
    if kind == "ppo":
        name, method = "rl.ppo", ppo(model().apply, prompts(), even_tokens, max_new_tokens=NEW, stop_tokens=(1,))
    else:
        name, method = "rl.grpo", make(kind, epochs=2)
    state, (_, batch), (_, gradient), (first, second) = stepped(method, steps=2, rate=0.5)
    before = jax.tree.map(lambda x, slope: x + 0.5 * slope, state.params, gradient)["model"]
    assert first[f"{name}/clip_fraction"] == 0 and abs(first[f"{name}/old_kl"]) < 1e-6
    ratio = np.exp(policy_tokens(model().apply(before, batch), batch, 1.0) - batch["old"])
    mask, advantage = np.asarray(batch["weights"]) > 0, np.asarray(batch["advantage"])
    advantage = np.broadcast_to(advantage if kind == "ppo" else advantage[:, None], mask.shape)
    apart = ratio - 1 - np.log(ratio)
    low, high = (3e-4, 4e-4) if kind == "gspo" else (0.2, 0.2)
    taken, gone = [], []
    for row in range(len(mask)):
        own, good = ratio[row][mask[row]], advantage[row][mask[row]] > 0
        own = np.full_like(own, np.exp(np.log(own).mean())) if kind == "gspo" else own
        flat = advantage[row][mask[row]] == 0
        taken.append(np.mean(np.where(good, own > 1 + high, (own < 1 - low) & ~flat)))
        gone.append(apart[row][mask[row]].mean())
    np.testing.assert_allclose(second[f"{name}/clip_fraction"], np.mean(taken), rtol=1e-5)
    np.testing.assert_allclose(second[f"{name}/old_kl"], np.mean(gone), rtol=1e-2)
    assert 0 < second[f"{name}/clip_fraction"] < 1
    # Groups of one have no signal to speak of.
    assert (f"{name}/groups_without_signal" in second) == (kind != "ppo")


def test_only_groups_with_a_signal_are_kept():
    said = lambda answers: (answers.prompts[:, -1] % 2) * even_tokens(answers)  # noqa: E731
    _, (batch,), _, (metrics,) = stepped(make("dapo", keep=2, reward=said))
    assert batch["input_ids"].shape[0] == 4
    with_signal = batch["signal"].reshape(2, 2)[:, 0]
    assert (batch["weights"].sum(1).reshape(2, 2).sum(1) > 0).tolist() == (with_signal > 0).tolist()
    assert 0 <= metrics["rl.grpo/groups_without_signal"] <= 1


def test_the_reference_holds_the_policy_back_in_the_loss_or_in_the_reward():
    for inside in (False, True):
        _, _, _, metrics = stepped(make(kl=0.1, kl_in_reward=inside), steps=2, rate=0.5)
        assert abs(metrics[0]["rl.grpo/kl"]) < 1e-5 and metrics[1]["rl.grpo/kl"] > 1e-5


def test_further_parts_join_in():
    _, (batch,), _, (metrics,) = stepped(make("dapo", correction=2.0, entropy_share=0.5, overlong=2))
    np.testing.assert_allclose(batch["trust"][batch["weights"] > 0], 1.0, atol=1e-3)
    kept = batch["kept"].sum() / batch["weights"].sum()
    assert 0.2 < kept < 0.8 and metrics["rl.grpo/reward.overlong"] <= 0
    shown = {"input_ids": jnp.ones((4, 6), jnp.int32), "labels": jnp.ones((4, 6), jnp.int32)}
    _, _, _, (metrics,) = stepped(make(sft=0.5), {**prompts(), "demonstrations": shown})
    alone, _ = supervised(model().apply)(model().params, shown, _Plain())
    np.testing.assert_allclose(metrics["rl.grpo/demonstrations"], 0.5 * alone["task"], rtol=1e-4)


class _Plain:
    def run(self, apply, params, batch):
        return apply(params, batch, None)


def test_rewards_of_the_host_are_those_of_the_device_for_members_too():
    host = on_host(lambda answers: [np.mean([token % 2 == 0 for token in one.tokens]) for one in answers])
    states = [stepped(make(reward=reward), rate=0.1)[0] for reward in (even_tokens, host)]
    for a, b in zip(*(jax.tree.leaves(state.params) for state in states), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    lifted = [map_members(program_of(make(reward=reward), 0.1), 2) for reward in (even_tokens, host)]
    ends = [jax.jit(one.step)(one.init(model().params, jax.random.key(3)), prompts())[0] for one in lifted]
    for a, b in zip(*(jax.tree.leaves(state.params) for state in ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_several_rewards_are_weighted_and_told_apart():
    rewards = {"even": even_tokens, "one": lambda answers: jnp.ones(len(answers.lengths))}
    _, (batch,), _, (metrics,) = stepped(make(reward=rewards, reward_weights={"one": 0.5}))
    np.testing.assert_allclose(metrics["rl.grpo/reward"], metrics["rl.grpo/reward.even"] + 0.5, rtol=1e-5)
    assert metrics["rl.grpo/reward.one"] == 1 and batch["reward"].shape == (2 * PROMPTS,)
    # A rollout that serves one update has nothing to clip.
    assert "rl.grpo/clip_fraction" not in metrics


def test_faults_of_a_reward_stop_the_run_or_are_left_out():
    def raising(answers):
        raise KeyError("no answer")

    cases = (
        (raising, "reward 'raising' raised KeyError: 'no answer'"),
        (lambda answers: [1.0], r"gave \(1,\) numbers for 8 answers"),
        (lambda answers: [float("nan")] * len(answers), "is nan for answer 0, tokens"),
    )
    for score, message in cases:
        with pytest.raises(Exception, match=message):
            stepped(make(reward=on_host(score)))

    def half(answers):
        found = [float(len(one.tokens)) for one in answers]
        return [np.nan if index == 1 else value for index, value in enumerate(found)]

    _, (batch,), _, (metrics,) = stepped(make(reward=on_host(half, faults="skip")))
    assert np.isnan(batch["reward"][1]) and batch["advantage"][1] == 0 and np.isfinite(metrics["loss"])
    assert metrics["rl.grpo/unscored"] == 1 / len(batch["reward"])
    _, _, _, (metrics,) = stepped(make(reward=on_host(raising, faults="skip")))
    assert metrics["loss"] == 0
    for wrong in (lambda answers: jnp.ones(1), lambda answers: 1.0, lambda answers: jnp.ones((8, 1))):
        for build in (make, lambda reward: ppo(model().apply, prompts(), reward, samples=2, max_new_tokens=NEW)):
            with pytest.raises(ValueError, match=r"reward 'reward' has the shape \(.*\) for 8 answers; give one"):
                jax.eval_shape(*started(build(reward=wrong)))
    with pytest.raises(ValueError, match="faults is 'ignore'; use 'stop' or 'skip'"):
        on_host(half, faults="ignore")


def test_equal_rewards_move_nothing():
    for variant in ("dapo", "cispo"):
        _, _, (gradient,), (metrics,) = stepped(make(variant, reward=lambda answers: jnp.ones(len(answers.lengths))))
        assert all(np.abs(leaf).max() < 1e-6 for leaf in jax.tree.leaves(gradient))
        assert metrics["rl.grpo/groups_without_signal"] == 1


def test_texts_are_scored_with_the_prompts_fields():
    score = of_texts(lambda ids: " ".join(map(str, ids)), lambda text, answer: float(text.startswith(str(int(answer)))))
    _, (batch,), _, _ = stepped(make(reward=score), {**prompts(), "answer": jnp.array([2, 4, 6, 8])})
    first = batch["labels"][jnp.arange(8), TIME - 1]
    wanted = [
        str(int(token)).startswith(str(answer)) for token, answer in zip(first, np.repeat([2, 4, 6, 8], 2), strict=True)
    ]
    assert batch["reward"].tolist() == [float(one) for one in wanted]


def test_raft_learns_the_best_answer_of_each_prompt():
    method = raft(model().apply, even_tokens, samples=6, max_new_tokens=NEW, stop_tokens=(1,))
    _, (batch,), _, (metrics,) = stepped(method)
    assert batch["input_ids"].shape[0] == PROMPTS
    real, labels = np.asarray(batch["weights"]) > 0, np.asarray(batch["labels"])
    best = np.mean([np.mean(labels[row][real[row]] % 2 == 0) for row in range(PROMPTS)])
    assert best > metrics["rl.raft/reward"]
    strict = raft(model().apply, even_tokens, samples=2, max_new_tokens=NEW, least=2.0)
    assert stepped(strict)[3][0]["loss"] == 0


def test_ppo_pays_the_last_token_and_learns_what_to_expect():
    method = ppo(
        model().apply, prompts(), even_tokens, max_new_tokens=NEW, stop_tokens=(1,), epochs=1, trace=1.0, kl=0.0
    )
    state, (batch, *_), _, metrics = stepped(method, steps=2, rate=0.1)
    # With λ = γ = 1 and no divergence every token's return is the answer's reward.
    spread = jnp.where(batch["weights"] > 0, batch["return"], jnp.nan)
    np.testing.assert_allclose(jnp.nanmax(spread, 1), jnp.nanmin(spread, 1), atol=1e-5)
    assert float(jnp.abs(state.params["rl.ppo"]["kernel"]).sum()) > 0
    assert all(np.isfinite(one["rl.ppo/policy"]) for one in metrics)


def test_answers_in_tokens_are_compared_on_the_device():
    answer = jnp.array([[3, 1, 0]] * PROMPTS)
    _, (batch,), _, _ = stepped(make(reward=matches_tokens), {**prompts(), "answer": answer})
    labels = np.asarray(batch["labels"])[:, TIME - 1 :]
    assert batch["reward"].tolist() == [float(row[0] == 3 and row[1] == 1) for row in labels]


def test_settings_that_can_not_be_are_refused():
    with pytest.raises(ValueError, match="rl.grpo has no variant 'gpo'; the nearest are"):
        make("gpo")
    with pytest.raises(ValueError, match="samples is 1; an answer is compared with the others"):
        grpo(model().apply, prompts(), even_tokens, samples=1)
    with pytest.raises(ValueError, match="prompts of 5 tokens and answers of 60, more than the 64"):
        stepped(grpo(model().apply, prompts(), even_tokens, samples=2, max_new_tokens=60))
    with pytest.raises(KeyError, match="answers prompts, but the batch has question"):
        stepped(make(), {"question": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="temperature 0.0; give one above 0"):
        make(temperature=0.0)
    with pytest.raises(ValueError, match="entropy_share=0; give a share"):
        make(entropy_share=0)
    for keep in (0, PROMPTS + 1):
        with pytest.raises(ValueError, match=f"keep={keep} of the groups of 4 prompts; give at least 1"):
            make("dapo", keep=keep)
    assert all(dataclasses.is_dataclass(recipe) for recipe in RECIPES.values())
