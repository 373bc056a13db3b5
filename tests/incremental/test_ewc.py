import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core import tiny

from ft_jax.core import Method, Outputs, compose, make_step, never, optimizer, supervised
from ft_jax.core.members import map_members
from ft_jax.incremental import ewc

FEATURES, CLASSES = 3, 4


def softmax_regression(params, batch, key):
    return Outputs(hidden=batch["x"], unembedding=params["w"])


def regression_task(count, seed=0):
    x = jax.random.normal(jax.random.key(seed), (count, FEATURES))
    labels = jax.random.randint(jax.random.key(seed + 1), (count,), 0, CLASSES)
    return {"x": x, "labels": labels}


def stacked(batch, batches):
    return jax.tree.map(lambda leaf: leaf.reshape(batches, -1, *leaf.shape[1:]), batch)


def after_task(method, apply, params, batches):
    program = make_step(supervised(apply), optax.sgd(0.1), method)
    return jax.jit(program.after_task)(program.init(params, jax.random.key(3)), batches)


def test_empirical_fisher_equals_the_closed_form_of_softmax_regression():
    batch = regression_task(12)
    w = jax.random.normal(jax.random.key(5), (FEATURES, CLASSES))
    state = after_task(ewc(fisher="empirical"), softmax_regression, {"w": w}, stacked(batch, 3))
    residual = jax.nn.softmax(batch["x"] @ w) - jax.nn.one_hot(batch["labels"], CLASSES)
    expected = jnp.mean(jnp.square(batch["x"][:, :, None] * residual[:, None, :]), axis=0)
    np.testing.assert_allclose(state.memory["incremental.ewc"]["fisher"]["w"], expected, rtol=1e-5)
    np.testing.assert_array_equal(state.memory["incremental.ewc"]["anchor"]["w"], w)


def test_sampled_fisher_converges_to_the_closed_form_and_ignores_the_labels():
    x = jax.random.normal(jax.random.key(0), (4, FEATURES))
    batch = {"x": jnp.tile(x, (4000, 1)), "labels": jnp.zeros(16000, jnp.int32)}
    w = jax.random.normal(jax.random.key(5), (FEATURES, CLASSES))
    state = after_task(ewc(), softmax_regression, {"w": w}, stacked(batch, 4))
    p = jax.nn.softmax(x @ w)
    expected = jnp.mean(jnp.square(x)[:, :, None] * (p * (1 - p))[:, None, :], axis=0)
    np.testing.assert_allclose(state.memory["incremental.ewc"]["fisher"]["w"], expected, rtol=0.06)


def test_exact_fisher_is_the_closed_form_at_once():
    batch = regression_task(12)
    w = jax.random.normal(jax.random.key(5), (FEATURES, CLASSES))
    state = after_task(ewc(fisher="exact"), softmax_regression, {"w": w}, stacked(batch, 3))
    p = jax.nn.softmax(batch["x"] @ w)
    expected = jnp.mean(jnp.square(batch["x"])[:, :, None] * (p * (1 - p))[:, None, :], axis=0)
    np.testing.assert_allclose(state.memory["incremental.ewc"]["fisher"]["w"], expected, rtol=1e-5)


def test_exact_fisher_of_texts_and_an_unknown_kind_are_refused():
    with pytest.raises(ValueError, match="fisher='exact' weighs every label of an example, and these have"):
        after_task(ewc(fisher="exact"), tiny.apply, tiny.params(), stacked(tiny.batch(), 2))
    with pytest.raises(ValueError, match="got fisher='diagonal'; use one of 'sampled', 'empirical', 'exact'"):
        ewc(fisher="diagonal")


def test_a_text_counts_as_the_sum_of_its_weighted_tokens():
    batch = tiny.batch()
    state = after_task(ewc(fisher="empirical"), tiny.apply, tiny.params(), stacked(batch, 2))

    def log_probability(params, row):
        logits = tiny.apply(params, {"input_ids": batch["input_ids"][row][None]}, None).logits[0]
        chosen = jax.nn.log_softmax(logits)[jnp.arange(tiny.TIME), batch["labels"][row]]
        return jnp.sum(batch["weights"][row] * chosen)

    one = jax.jit(jax.grad(log_probability))
    gradients = [one(tiny.params(), row) for row in range(tiny.BATCH)]
    expected = jax.tree.map(lambda *g: jnp.mean(jnp.square(jnp.stack(g)), axis=0), *gradients)
    chex.assert_trees_all_close(state.memory["incremental.ewc"]["fisher"], expected, rtol=1e-4, atol=1e-6)


def test_padding_examples_do_not_dilute_the_fisher():
    batch = tiny.batch()
    padded = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), batch)
    padded["weights"] = padded["weights"].at[tiny.BATCH :].set(0.0)
    one = after_task(ewc(fisher="empirical"), tiny.apply, tiny.params(), stacked(batch, 2))
    other = after_task(ewc(fisher="empirical"), tiny.apply, tiny.params(), stacked(padded, 2))
    chex.assert_trees_all_close(one.memory, other.memory, rtol=1e-5, atol=1e-7)


def test_the_penalty_and_its_gradient_are_equation_3():
    method, batch = ewc(weight=50.0), regression_task(8)
    program = make_step(supervised(softmax_regression), optax.sgd(1.0), method)
    w = jax.random.normal(jax.random.key(5), (FEATURES, CLASSES))
    state = program.after_task(program.init({"w": w}, jax.random.key(3)), stacked(batch, 2))
    fisher = state.memory["incremental.ewc"]["fisher"]["w"]
    moved = state.replace(params={"model": {"w": w + 0.1}})
    plain = make_step(supervised(softmax_regression), optax.sgd(1.0))
    after, metrics = program.step(moved, batch)
    expected, _ = plain.step(plain.init({"w": w + 0.1}, jax.random.key(3)), batch)
    np.testing.assert_allclose(metrics["incremental.ewc"], 25.0 * jnp.sum(fisher * 0.1**2), rtol=1e-4)
    pull = expected.params["model"]["w"] - after.params["model"]["w"]
    np.testing.assert_allclose(pull, 50.0 * fisher * 0.1, rtol=1e-3, atol=1e-5)


def test_decay_forgets_earlier_tasks_and_the_anchor_is_the_latest():
    batches = [stacked(regression_task(8, seed), 2) for seed in (0, 7)]
    w = jax.random.normal(jax.random.key(5), (FEATURES, CLASSES))
    program = make_step(supervised(softmax_regression), optax.sgd(0.1), ewc(decay=0.25, fisher="empirical"))
    state = program.init({"w": w}, jax.random.key(3))
    first = program.after_task(state, batches[0])
    second = program.after_task(first.replace(params={"model": {"w": w + 1}}), batches[1])
    alone = program.after_task(state.replace(params={"model": {"w": w + 1}}), batches[1])
    fisher = [one.memory["incremental.ewc"]["fisher"]["w"] for one in (first, second, alone)]
    np.testing.assert_allclose(fisher[1], 0.25 * fisher[0] + fisher[2], rtol=1e-5)
    np.testing.assert_array_equal(second.memory["incremental.ewc"]["anchor"]["w"], w + 1)


def test_weights_that_mattered_stay_and_the_others_move():
    first = {"x": jnp.tile(jnp.array([1.0, 0.0, 0.0]), (8, 1)), "labels": jnp.arange(8) % 2}
    second = {"x": jnp.tile(jnp.array([1.0, 1.0, 0.0]), (8, 1)), "labels": jnp.full(8, 3)}

    def drift(weight):
        build = optimizer(optax.sgd, learning_rate=0.2)
        program = make_step(supervised(softmax_regression), build, ewc(weight=weight))
        state = program.init({"w": jnp.zeros((FEATURES, CLASSES))}, jax.random.key(3))
        state = program.after_task(state, stacked(first, 2))
        step = jax.jit(program.step, donate_argnums=0)
        for _ in range(30):
            state, _ = step(state, second)
        return jnp.abs(state.params["model"]["w"]).sum(axis=1)

    free, held = drift(0.0), drift(20.0)
    assert held[0] < 0.3 * free[0] and held[1] > 0.8 * free[1]


def test_only_what_learns_in_the_model_is_remembered():
    method = compose(
        Method("thin", trainable=never("model/table", "model/layer/*")),
        Method("own", surgery=lambda params, key: {**params, "own": jnp.zeros(99)}),
        ewc(),
    )
    state = make_step(supervised(tiny.apply), optax.sgd(0.1), method).init(tiny.params(), jax.random.key(0))
    shapes = [leaf.shape for leaf in jax.tree.leaves(state.memory["incremental.ewc"])]
    assert shapes == [(tiny.WIDTH, tiny.CLASSES)] * 2


def test_the_fisher_of_episodes_and_preferences_is_that_of_their_examples():
    batches = stacked(tiny.batch(), 2)  # [2 batches, 4 examples, ...]
    tasks = jax.tree.map(lambda x: x.reshape(2, 2, 2, *x.shape[2:]), batches)
    episodes = {
        "support": jax.tree.map(lambda x: x[:, :, :1], tasks),
        "query": jax.tree.map(lambda x: x[:, :, 1:], tasks),
    }
    preferences = {"chosen": batches, "rejected": jax.tree.map(jnp.zeros_like, batches)}
    expected = after_task(ewc(fisher="empirical"), tiny.apply, tiny.params(), batches)
    for layout in (episodes, preferences):
        other = after_task(ewc(fisher="empirical"), tiny.apply, tiny.params(), layout)
        chex.assert_trees_all_close(other.memory, expected.memory, rtol=1e-5, atol=1e-7)


def test_members_have_their_own_fisher():
    program = map_members(make_step(supervised(tiny.apply), optax.sgd(0.1), ewc()), 2)
    state = program.init(tiny.params(), jax.random.key(0))
    state = state.replace(params=jax.tree.map(lambda leaf: leaf.at[1].multiply(2.0), state.params))
    fisher = jax.jit(program.after_task)(state, stacked(tiny.batch(), 2)).memory["incremental.ewc"]["fisher"]["head"][
        "kernel"
    ]
    assert fisher.shape[0] == 2 and jnp.all(jnp.sum(fisher, axis=(1, 2)) > 0) and not jnp.allclose(*fisher)


def test_the_fisher_needs_labels_and_to_sample_them_a_head():
    program = make_step(supervised(tiny.apply), optax.sgd(0.1), ewc())
    with pytest.raises(ValueError, match="incremental.ewc needs 'labels', but the batches that end the task have x"):
        program.after_task(program.init(tiny.params(), jax.random.key(0)), {"x": jnp.zeros((1, 2))})

    def headless(params, batch, context):
        return {"task": jnp.sum(params["model"]["w"])}, Outputs(hidden=batch["x"])

    program = make_step(headless, optax.sgd(0.1), ewc())
    state = program.init({"w": jnp.ones(2)}, jax.random.key(0))
    with pytest.raises(ValueError, match="no head to sample labels from; use incremental.ewc with fisher='empirical'"):
        program.after_task(state, stacked(regression_task(4), 2))
