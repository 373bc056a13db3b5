"""Buffers that are no uniform sample, ER-ACE, and MAS: against slow obvious versions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.core import Outputs, make_step, supervised
from ft_jax.core.state import StepEvent, TrainState
from ft_jax.incremental import balanced_replay, capacity_within, er_ace, mas, replay, replay_by_loss

CLASSES, WIDTH = 3, 4


def regression(params, batch, key):
    return Outputs(hidden=batch["x"], unembedding=params["w"])


def batch_of(labels, start=0):
    labels = jnp.asarray(labels, jnp.int32)
    return {"x": start + jnp.arange(len(labels), dtype=jnp.float32)[:, None] * jnp.ones(WIDTH), "labels": labels}


def streamed(method, labels, size=4, key=0, weights=None):
    """The memory after a stream of labels, whose examples are their numbers, without any training."""
    example = batch_of(labels[:1])
    event = lambda batch, number: StepEvent(batch, {}, {}, {}, None, jax.random.key(1000 * key + number))  # noqa: E731
    made = method(example)
    program = make_step(supervised(regression), optax.sgd(0.0), made)
    state = program.init({"w": jnp.zeros((WIDTH, CLASSES))}, jax.random.key(0))
    after = jax.jit(made.after_step)
    for number, start in enumerate(range(0, len(labels), size)):
        state = after(state, event(batch_of(labels[start : start + size], start), number))
    return state.memory[made.name]


def balanced(example):
    return balanced_replay(6, 2, example, CLASSES)


def test_a_balanced_buffer_holds_as_many_of_every_class_however_rare():
    draw = np.random.default_rng(0)
    labels = np.concatenate([np.zeros(40), np.where(draw.random(80) < 0.1, 1 + np.arange(80) % 2, 0)]).astype(int)
    own = streamed(balanced, labels)
    assert np.bincount(np.asarray(own["of"]), minlength=CLASSES).tolist() == [2, 2, 2]
    np.testing.assert_array_equal(own["buffer"]["labels"], own["of"])
    np.testing.assert_array_equal(own["seen_of"], np.bincount(labels, minlength=CLASSES))
    # Every slot holds an example of the stream, with its own label, none twice.
    places = np.asarray(own["buffer"]["x"][:, 0]).astype(int)
    np.testing.assert_array_equal(labels[places], own["of"])
    assert len(set(places)) == 6


def test_within_a_full_class_the_buffer_is_a_uniform_sample():
    runs, count = 400, 24
    labels = [0] * count
    kept = np.concatenate(
        [np.asarray(streamed(balanced, labels, size=8, key=run)["buffer"]["x"][:, 0]) for run in range(1, runs // 8)]
    )
    shares = np.bincount(kept.astype(int), minlength=count) / (runs // 8 - 1)
    p = 6 / count
    assert np.abs(shares - p).max() < 4.5 * np.sqrt(p * (1 - p) / (runs // 8 - 1))


def test_a_buffer_by_loss_draws_without_replacement_in_proportion_to_losses():
    method = replay_by_loss(1, 1, batch_of([0]), power=1.0)
    losses = jnp.array([0.5, 1.0, 2.5])
    # Logits of two classes whose cross-entropy is that loss.
    logits = jnp.stack([jnp.zeros(3), jnp.log(jnp.expm1(losses)), jnp.full(3, -1e9)], axis=1)
    batch = batch_of([0, 0, 0])

    def kept(key, power):
        event = StepEvent(batch, {}, {}, {}, logits, key)
        numbers = {method.name: {"weight": 1.0, "power": power}}
        state = TrainState(jnp.int32(0), {}, {}, (), {method.name: method.memory(None, None)}, numbers, key)
        return method.after_step(state, event).memory[method.name]["buffer"]["x"][0, 0]

    keys = jax.random.split(jax.random.key(0), 4000)
    for power in (1.0, 0.0):
        drawn = np.bincount(np.asarray(jax.vmap(lambda key, p=power: kept(key, p))(keys)).astype(int), minlength=3)
        expected = np.asarray(losses) ** power / np.sum(np.asarray(losses) ** power)
        assert np.abs(drawn / 4000 - expected).max() < 0.035


def test_er_ace_hides_absent_classes_from_new_examples_and_none_from_replayed_ones():
    w = jax.random.normal(jax.random.key(0), (WIDTH, CLASSES))
    first, second = batch_of([0, 1]), batch_of([2, 1], 3)
    second["x"] = second["x"] * 0.1
    program = make_step(supervised(regression), optax.sgd(0.0), er_ace(2, 64, first, CLASSES, weight=1.0))
    state = program.init({"w": w}, jax.random.key(0))
    state, metrics = program.step(state, first)

    def cross_entropy(batch, classes):
        logits = np.asarray(batch["x"] @ w, np.float64)[:, classes]
        logits -= logits.max(axis=1, keepdims=True)
        log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -np.asarray([log[row, list(classes).index(int(y))] for row, y in enumerate(batch["labels"])])

    np.testing.assert_allclose(metrics["task"], cross_entropy(first, [0, 1]).mean(), rtol=1e-4)
    _, metrics = program.step(state, second)
    np.testing.assert_allclose(metrics["task"], cross_entropy(second, [1, 2]).mean(), rtol=1e-4)
    whole = cross_entropy(first, [0, 1, 2])
    assert whole.min() - 1e-4 <= metrics["incremental.er_ace"] <= whole.max() + 1e-4
    # By brute force: 64 draws of two examples give a mean that is a multiple of 1/64 between the two losses.
    share = (float(metrics["incremental.er_ace"]) - whole[0]) / (whole[1] - whole[0]) * 64
    assert abs(share - round(share)) < 0.05
    answers = program.evaluate(state, second).predictions
    np.testing.assert_allclose(answers, second["x"] @ w, rtol=1e-5)


def test_mas_is_the_closed_form_of_a_linear_model():
    x = jax.random.normal(jax.random.key(0), (12, WIDTH))
    w = jax.random.normal(jax.random.key(1), (WIDTH, CLASSES))
    program = make_step(supervised(regression), optax.sgd(0.1), mas(weight=2.0))
    state = program.init({"w": w}, jax.random.key(3))
    batch = {"x": x.reshape(3, 4, WIDTH), "labels": jnp.zeros((3, 4), jnp.int32)}
    state = jax.jit(program.after_task)(state, batch)
    # ∂ ‖xW‖² / ∂ W_ij = 2 x_i (xW)_j.
    expected = jnp.mean(jnp.abs(2 * x[:, :, None] * (x @ w)[:, None, :]), axis=0)
    np.testing.assert_allclose(state.memory["incremental.mas"]["importance"]["w"], expected, rtol=1e-5)
    moved = state.replace(params={"model": {"w": w + 0.1}})
    _, metrics = program.step(moved, {"x": x, "labels": jnp.zeros(12, jnp.int32)})
    np.testing.assert_allclose(metrics["incremental.mas"], 2.0 * 0.01 * jnp.sum(expected), rtol=1e-3)
    again = program.after_task(state, batch)
    np.testing.assert_allclose(again.memory["incremental.mas"]["importance"]["w"], 2 * expected, rtol=1e-5)


def test_a_budget_in_mib_holds_and_one_too_small_for_an_example_is_refused():
    example = {"x": np.zeros((2, 100), np.float32), "labels": np.zeros(2, np.int32)}
    capacity = capacity_within(0.1, example)
    buffer = replay(capacity, 1, example).memory(None, None)["buffer"]
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(buffer))
    assert size <= 0.1 * 2**20 < size + 404
    with pytest.raises(ValueError, match="a budget of 0.0001 MiB holds no example, one has 404 bytes"):
        capacity_within(0.0001, example)
