import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core import tiny

from ft_jax.core import Method, Outputs, compose, make_step, supervised
from ft_jax.core.batches import without_shares
from ft_jax.incremental import replay
from ft_jax.incremental.replay import insert


def empty(capacity):
    return {"buffer": {"x": jnp.full(capacity, -1)}, "seen": jnp.int32(0)}


def filled(key, capacity, count, batch):
    memory = empty(capacity)
    for start in range(0, count, batch):
        x = jnp.arange(start, min(start + batch, count))
        memory = insert(memory, {"x": x}, jax.random.fold_in(key, start))
    return memory["buffer"]["x"]


@pytest.mark.parametrize("batch", [1, 4, 9, 20])
def test_every_example_is_kept_with_the_same_probability(batch):
    capacity, count, runs = 6, 20, 6000
    kept = jax.jit(jax.vmap(lambda key: filled(key, capacity, count, batch)))(jax.random.split(jax.random.key(0), runs))
    shares = np.bincount(np.asarray(kept).ravel(), minlength=count) / runs
    p = capacity / count
    assert np.abs(shares - p).max() < 4.5 * np.sqrt(p * (1 - p) / runs)
    assert all(len(set(row)) == capacity for row in np.asarray(kept)[:200])
    # Pairs too: a sample without replacement holds each pair with probability C(C-1) / N(N-1).
    inside = np.stack([(np.asarray(kept) == item).any(axis=1) for item in range(count)], axis=1).astype(float)
    together = inside.T @ inside / runs
    q = capacity * (capacity - 1) / (count * (count - 1))
    off = [together[i, j] for i, j in itertools.combinations(range(count), 2)]
    assert np.abs(np.array(off) - q).max() < 5 * np.sqrt(q * (1 - q) / runs)


def test_a_batch_at_once_equals_its_examples_one_by_one():
    key, capacity, count = jax.random.key(4), 5, 40
    memory = {"buffer": {"x": jnp.full(capacity, -1)}, "seen": jnp.int32(3)}
    whole = insert(memory, {"x": jnp.arange(count)}, key)
    before = 3 + np.arange(count)
    slots = np.where(before < capacity, before, jax.random.randint(key, (count,), 0, before + 1))
    buffer = np.full(capacity, -1)
    for item, slot in enumerate(slots):
        if slot < capacity:
            buffer[slot] = item
    assert len(set(slots[slots < capacity])) < np.sum(slots < capacity)
    np.testing.assert_array_equal(whole["buffer"]["x"], buffer)
    assert whole["seen"] == 3 + count


def test_padding_does_not_enter():
    weights = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    memory = {"buffer": {"x": jnp.zeros(4), "weights": jnp.zeros((4, 2))}, "seen": jnp.int32(0)}
    after = insert(memory, {"x": jnp.array([5.0, 6.0, 7.0]), "weights": weights}, jax.random.key(0))
    assert after["buffer"]["x"].tolist() == [5, 7, 0, 0] and after["seen"] == 2


def test_an_endless_stream_does_not_overflow():
    memory = {"buffer": {"x": jnp.zeros(4)}, "seen": jnp.int32(2**31 - 2)}
    for number in range(3):
        memory = insert(memory, {"x": jnp.ones(8)}, jax.random.key(number))
        assert memory["seen"] == 2**31 - 1


def program_with(method, **options):
    return make_step(supervised(tiny.apply), optax.sgd(0.1), method, **options)


def test_the_term_is_the_loss_on_examples_of_the_buffer():
    batch = tiny.batch()
    program = program_with(replay(capacity=1, size=3, example=batch, weight=2.0))
    state = program.init(tiny.params(), jax.random.key(0))
    step = jax.jit(program.step)
    state, metrics = step(state, batch)
    assert metrics["incremental.replay"] == 0
    kept = state.memory["incremental.replay"]["buffer"]
    assert state.memory["incremental.replay"]["seen"] == tiny.BATCH
    assert any(jnp.array_equal(kept["input_ids"][0], row) for row in batch["input_ids"])
    _, metrics = step(state, batch)
    plain_program = program_with(compose())
    alone, *_ = plain_program.evaluate(plain_program.init(state.params["model"], jax.random.key(0)), kept)
    np.testing.assert_allclose(metrics["incremental.replay"], 2.0 * alone["task"], rtol=1e-5)
    terms, *_ = program.evaluate(state, batch)
    assert list(terms) == ["task"]


def test_only_filled_slots_are_replayed_and_all_of_them():
    def extremes(params, batch, context):
        value = 100.0 * jnp.max(batch["x"]) + jnp.min(batch["x"])
        return {"task": params["model"]["w"] * value}, Outputs(hidden=batch["x"][:, None])

    method = replay(capacity=10, size=64, example={"x": jnp.zeros(1)})
    program = make_step(extremes, optax.sgd(0.0), method)
    state = program.init({"w": jnp.float32(1)}, jax.random.key(0))
    state, _ = program.step(state, {"x": jnp.array([3.0, 4.0, 5.0])})
    _, metrics = program.step(state, {"x": jnp.array([6.0, 7.0, 8.0])})
    assert metrics["task"] == 806 and metrics["incremental.replay"] == 503


def test_earlier_examples_are_forgotten_less():
    first, second = regression([1.0, 0.0], 0), regression([0.8, 0.6], 1)

    def loss_on_first(weight):
        method = replay(capacity=16, size=8, example=first, weight=weight)
        program = make_step(supervised(linear), optax.sgd(0.5), method)
        state = program.init({"w": jnp.zeros((2, 2))}, jax.random.key(0))
        step = jax.jit(program.step, donate_argnums=0)
        for batch in [first] * 20 + [second] * 20:
            state, _ = step(state, batch)
        return program.evaluate(state, first)[0]["task"]

    assert loss_on_first(1.0) < 0.5 * loss_on_first(0.0)


def linear(params, batch, key):
    return Outputs(hidden=batch["x"], unembedding=params["w"])


def regression(x, label):
    return {"x": jnp.tile(jnp.array(x), (8, 1)), "labels": jnp.full(8, label)}


def test_inside_episodes_and_preferences_their_examples_are_remembered():
    batch, outer = tiny.batch(), Method("outer", loss=lambda inner: lambda p, b, c: inner(p, plain(b), c))
    method = compose(outer, replay(capacity=8, size=2, example=batch))
    halves = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), batch)
    episodes = {"support": jax.tree.map(lambda x: x[:, :1], halves), "query": jax.tree.map(lambda x: x[:, 1:], halves)}
    rejected = {**batch, "input_ids": batch["input_ids"] * 0}
    for layout in (episodes, {"chosen": batch, "rejected": rejected}):
        program = program_with(method)
        state, _ = jax.jit(program.step)(program.init(tiny.params(), jax.random.key(0)), layout)
        kept = state.memory["incremental.replay"]["buffer"]["input_ids"]
        assert sorted(np.asarray(kept).tolist()) == sorted(np.asarray(batch["input_ids"]).tolist())


def plain(batch):
    part = batch.get("chosen") or batch["query"]
    wide = tiny.batch()
    return jax.tree.map(lambda x, one: x.reshape(-1, *one.shape[1:]), without_shares(part), wide)


def test_a_missing_field_and_a_layout_that_does_not_fit_are_refused():
    batch = tiny.batch()
    program = program_with(replay(capacity=8, size=2, example={**batch, "images": jnp.zeros((8, 2))}))
    state = program.init(tiny.params(), jax.random.key(0))
    with pytest.raises(KeyError, match="remembers field 'images', but the batch has input_ids"):
        jax.eval_shape(program.step, state, batch)
    with pytest.raises(ValueError, match="capacity 0 and replays 2; give both at least 1"):
        replay(capacity=0, size=2, example=batch)
    pairs = {"chosen": batch, "rejected": batch}
    preferences = Method("preferences", reads="examples", gives="preferences")
    assert compose(replay(8, 2, pairs), preferences).names == ("incremental.replay", "preferences")
    with pytest.raises(ValueError, match="incremental.replay reads a batch of examples, but preferences"):
        compose(replay(8, 2, batch), preferences)
