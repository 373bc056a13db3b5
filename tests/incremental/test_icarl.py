"""iCaRL: herding, the shrinking memory, the loss and the answers, each as a plain loop has them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.core import Outputs, compose, jit_step, make_step, outputs_of, supervised
from ft_jax.incremental import icarl
from ft_jax.incremental.herding import herd

NAME, WIDTH, CLASSES = "incremental.icarl", 5, 4


def network(params, batch, key=None):
    return Outputs(hidden=jnp.tanh(batch["x"] @ params["layer"]), unembedding=params["head"])


def params(seed=0):
    draw = np.random.default_rng(seed)
    return {"layer": draw.normal(size=(WIDTH, WIDTH)).astype(np.float32), "head": np.ones((WIDTH, CLASSES), np.float32)}


def stacks(classes, seed, cut=(6,), rows=4):
    """Examples of some classes in stacks of so many batches; the last row of all counts nothing."""
    draw = np.random.default_rng(seed)
    count = sum(cut) * rows
    labels = draw.choice(classes, count).astype(np.int32)
    whole = {"x": draw.normal(size=(count, WIDTH)).astype(np.float32), "labels": labels}
    whole["weights"] = (np.arange(count) < count - 1).astype(np.float32)
    ends = np.cumsum([size * rows for size in cut])
    parts = [jax.tree.map(lambda x, a=a, b=b: x[a:b], whole) for a, b in zip([0, *ends], ends, strict=False)]
    return whole, [jax.tree.map(lambda x: jnp.asarray(x).reshape(-1, rows, *x.shape[1:]), part) for part in parts]


EXAMPLE = {"x": jnp.zeros((2, WIDTH)), "labels": jnp.zeros(2, jnp.int32)}


def program(capacity=10, size=3, **options):
    method = icarl(network, params(), EXAMPLE, capacity, size, **options)
    return make_step(supervised(network), optax.sgd(0.3), method), method


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def features(state, x):
    return unit(np.tanh(np.asarray(x) @ np.asarray(state.params["model"]["layer"])))


def slow_herding(z, mean, count):
    """Algorithm 4 of the paper, an exemplar at a time."""
    chosen = []
    for k in range(1, min(count, len(z)) + 1):
        left = [at for at in range(len(z)) if at not in chosen]
        chosen.append(min(left, key=lambda at: np.linalg.norm(mean - (z[at] + sum(z[j] for j in chosen)) / k)))
    return chosen


def test_herding_is_the_papers_loop():
    draw = np.random.default_rng(0)
    z = draw.normal(size=(20, 3)).astype(np.float32)
    member = draw.random(20) < 0.6
    mean = z[member].mean(axis=0)
    for count in (0, 1, 7, 50):
        places = np.asarray(herd(jnp.asarray(z), jnp.asarray(member), jnp.asarray(mean), jnp.int32(count)))
        rows = np.flatnonzero(member)
        expected = [rows[at] for at in slow_herding(z[member], mean, count)]
        assert np.argsort(places)[: len(expected)].tolist() == expected
        assert (places < 20).sum() == len(expected)


def test_its_mean_is_nearer_to_the_classes_than_a_random_samples():
    draw = np.random.default_rng(1)
    z = unit(draw.normal(size=(300, 16))).astype(np.float32)
    places = np.asarray(herd(jnp.asarray(z), jnp.ones(300, bool), jnp.asarray(z.mean(axis=0)), jnp.int32(10)))
    herded = np.linalg.norm(z[places < 300].mean(axis=0) - z.mean(axis=0))
    sampled = [np.linalg.norm(z[draw.choice(300, 10, replace=False)].mean(axis=0) - z.mean(axis=0)) for _ in range(50)]
    assert herded < 0.3 * np.mean(sampled)


def test_two_tasks_leave_the_exemplars_and_answers_of_the_slow_version():
    run, method = program()
    state = run.init(params(), jax.random.key(0))
    step, after, kept, asked = jit_step(run.step), jax.jit(run.after_task), {}, np.random.default_rng(9)
    for task, classes in enumerate([(0, 2), (1, 3)]):
        whole, parts = stacks(classes, task)
        for _ in range(3):
            state, _ = step(state, jax.tree.map(lambda x: x[0], parts[0]))
        state = after(state, parts[0])
        real = whole["weights"] > 0
        z = features(state, whole["x"])
        kept = {c: rows[: 10 // (2 * task + 2)] for c, rows in kept.items()}
        for c in classes:
            rows = np.flatnonzero((whole["labels"] == c) & real)
            order = slow_herding(z[rows], z[rows].mean(axis=0), 10 // (2 * task + 2))
            kept[c] = whole["x"][rows[order]]
        own = state.memory[NAME]
        for c, x in kept.items():
            held = np.argsort(np.where(own["of"] == c, own["place"], 99))[: len(x)]
            np.testing.assert_array_equal(own["buffer"]["x"][held], x)
            assert (np.asarray(own["of"]) == c).sum() == len(x)
            assert (np.asarray(own["buffer"]["labels"])[held] == c).all()
        means = {c: unit(features(state, x).mean(axis=0)) for c, x in kept.items()}
        x = asked.normal(size=(30, WIDTH)).astype(np.float32)
        slow = [min(means, key=lambda c, z=z: np.linalg.norm(z - means[c])) for z in features(state, x)]
        said = outputs_of(state, compose(method), network, {"x": jnp.asarray(x)}).logits
        assert np.argmax(said, axis=-1).tolist() == slow
    state, _ = step(state, jax.tree.map(lambda x: x[0], parts[0]))
    said = outputs_of(state, compose(method), network, {"x": jnp.asarray(x)}).logits
    own_head = np.tanh(x @ np.asarray(state.params["model"]["layer"])) @ np.asarray(state.params["model"]["head"])
    np.testing.assert_allclose(said, own_head, rtol=1e-4, atol=1e-5)


def test_a_task_in_several_stacks_chooses_among_all_that_it_has_seen():
    run, _ = program(capacity=8)
    state = run.init(params(), jax.random.key(0))
    whole, parts = stacks((0, 2), 0, cut=(2, 2, 2))
    for part in parts:
        state = jax.jit(run.after_task)(state, part)
    own, z, real = state.memory[NAME], features(state, whole["x"]), whole["weights"] > 0
    for c in (0, 2):
        rows = (whole["labels"] == c) & real
        np.testing.assert_allclose(own["sums"][c] / own["counts"][c], z[rows].mean(axis=0), rtol=1e-4, atol=1e-6)
        held = features(state, np.asarray(own["buffer"]["x"])[np.asarray(own["of"]) == c])
        assert len(held) == 4
        gap = np.linalg.norm(held.mean(axis=0) - z[rows].mean(axis=0))
        draw = np.random.default_rng(0)
        sampled = [np.linalg.norm(z[draw.choice(np.flatnonzero(rows), 4)].mean(0) - z[rows].mean(0)) for _ in range(50)]
        assert gap < 0.7 * np.mean(sampled)


def test_the_loss_is_the_papers_over_the_batch_and_over_exemplars():
    run, _ = program(size=500, weight=2.0)
    state = run.init(params(), jax.random.key(0))
    _, parts = stacks((0, 2), 0)
    batch = {"x": parts[0]["x"][1], "labels": jnp.array([1, 3, 1, 0])}
    first = run.step(state, batch)[1]
    logits = np.tanh(batch["x"] @ params()["layer"]) @ params()["head"]
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731

    def slow(logits, labels, before):
        targets = np.eye(CLASSES)[labels]
        if before is not None:
            targets[:, [0, 2]] = sigmoid(before)[:, [0, 2]]
        g = sigmoid(logits)
        return -(targets * np.log(g) + (1 - targets) * np.log(1 - g)).sum(-1)

    assert set(first) >= {NAME} and "task" not in first
    assert float(first[NAME]) == pytest.approx(slow(logits, batch["labels"], None).mean(), rel=1e-5)
    state = jax.jit(run.after_task)(state, parts[0])
    moved = {"layer": params(1)["layer"], "head": np.asarray(params(2)["layer"][:, :CLASSES])}
    state = state.replace(params={"model": jax.tree.map(jnp.asarray, moved)})
    found = float(run.step(state, batch)[1][NAME])

    def of(x, labels):
        said, before = (np.tanh(x @ np.asarray(p["layer"])) @ np.asarray(p["head"]) for p in (moved, params()))
        return slow(said, labels, before)

    own = state.memory[NAME]
    held = np.asarray(own["of"]) >= 0
    exemplars = of(np.asarray(own["buffer"]["x"])[held], np.asarray(own["buffer"]["labels"])[held])
    expected = of(np.asarray(batch["x"]), batch["labels"]).mean() + 2.0 * exemplars.mean()
    # 500 are drawn of ten.
    assert found == pytest.approx(expected, abs=2.0 * 4 * exemplars.std() / 500**0.5)


def test_what_can_not_be_is_refused():
    with pytest.raises(ValueError, match="room for 3 exemplars of 4 classes and draws 2; give at least 4, one of each"):
        icarl(network, params(), EXAMPLE, 3, 2)
    with pytest.raises(KeyError, match="keeps exemplars of classes, and the batch has no 'labels' but x"):
        icarl(network, params(), {"x": EXAMPLE["x"]}, 8, 2)
    headless = lambda params, batch, key=None: Outputs(hidden=batch["x"], unembedding=None)  # noqa: E731
    with pytest.raises(ValueError, match="knows classes by a model's head, and the model has none"):
        icarl(headless, params(), EXAMPLE, 8, 2)
