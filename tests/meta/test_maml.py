import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core import tiny

from ft_jax.core import Method, Outputs, compose, make_step, never, optimizer, supervised
from ft_jax.meta import episodes, fomaml, maml

RATE = 0.1
CURVATURES = jnp.array([[1.0, 2.0], [0.5, 3.0], [2.0, 0.25]])
CENTRES = jnp.array([[1.0, -1.0], [0.0, 2.0], [3.0, 1.0]])


def quadratic(params, batch, context):
    """``1/2 Σ curvature (w - centre)²``, whose gradient step has a closed form."""
    value = jnp.mean(0.5 * jnp.sum(batch["curvature"] * jnp.square(params["model"]["w"] - batch["centre"]), axis=-1))
    return {"task": value}, Outputs(hidden=batch["centre"])


def quadratic_episodes():
    support = {"curvature": CURVATURES[:, None], "centre": CENTRES[:, None]}
    query = {"curvature": CURVATURES[:, None] * 2, "centre": CENTRES[:, None] + 0.5}
    return {"support": support, "query": query}


def gradient_of(method, loss, params, batch, **options):
    program = make_step(loss, optax.sgd(1.0), method, **options)
    state = program.init(params, jax.random.key(0))
    after, metrics = jax.jit(program.step)(state, batch)
    return jax.tree.map(jnp.subtract, state.params["model"], after.params["model"]), metrics


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("first_order", [False, True])
def test_gradient_equals_the_closed_form_on_a_quadratic(steps, first_order):
    w = jnp.array([0.3, -0.7])
    batch = quadratic_episodes()
    gradient, metrics = gradient_of((fomaml if first_order else maml)(RATE, steps), quadratic, {"w": w}, batch)
    shrink = (1 - RATE * CURVATURES) ** steps
    adapted = CENTRES + shrink * (w - CENTRES)
    curvature, centre = batch["query"]["curvature"][:, 0], batch["query"]["centre"][:, 0]
    outer = curvature * (adapted - centre)
    np.testing.assert_allclose(gradient["w"], jnp.mean(outer * (1.0 if first_order else shrink), axis=0), rtol=1e-4)
    expected = jnp.mean(0.5 * jnp.sum(curvature * jnp.square(adapted - centre), axis=1))
    np.testing.assert_allclose(metrics["task"], expected, rtol=1e-5)


def by_hand(params, batch, rate):
    """The loop over tasks of the paper's algorithm 1, on whole logits."""

    def loss(params, part):
        logits = tiny.apply(params, part, None).logits
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), part["labels"][..., None], -1)[..., 0]
        return -jnp.sum(part["weights"] * chosen) / jnp.sum(part["weights"])

    values = []
    for task in range(batch["query"]["labels"].shape[0]):
        support, query = (jax.tree.map(lambda x, task=task: x[task], batch[part]) for part in ("support", "query"))
        adapted = params
        for _ in range(2):
            adapted = jax.tree.map(lambda p, g: p - rate * g, adapted, jax.grad(loss)(adapted, support))
        values.append(loss(adapted, query))
    return sum(values) / len(values)


@pytest.mark.parametrize("chunk", [5, 100])
def test_second_order_gradient_through_chunked_token_losses_equals_the_loop(chunk):
    batch = episodes(tiny.batch())
    gradient, metrics = gradient_of(maml(0.5, 2), supervised(tiny.apply, chunk=chunk), tiny.params(), batch)
    value, expected = jax.jit(jax.value_and_grad(by_hand))(tiny.params(), batch, 0.5)
    np.testing.assert_allclose(metrics["task"], value, rtol=1e-5)
    chex.assert_trees_all_close(gradient, expected, rtol=1e-3, atol=1e-5)
    first_order, _ = gradient_of(fomaml(0.5, 2), supervised(tiny.apply, chunk=chunk), tiny.params(), batch)
    assert optax.global_norm(jax.tree.map(jnp.subtract, first_order, expected)) > 0.01 * optax.global_norm(expected)


def test_only_what_learns_adapts():
    method = compose(maml(0.5), Method("thin", trainable=never("model/table", "model/layer/*")))
    program = make_step(supervised(tiny.apply), optax.sgd(0.1), method)
    state, _ = jax.jit(program.step)(program.init(tiny.params(), jax.random.key(0)), episodes(tiny.batch()))
    assert [leaf.shape for leaf in jax.tree.leaves(state.params)] == [(tiny.WIDTH, tiny.CLASSES)]
    assert not jnp.array_equal(state.params["model"]["head"]["kernel"], tiny.params()["head"]["kernel"])


def test_predictions_are_each_tasks_own_in_the_querys_order():
    program = make_step(supervised(tiny.apply), optax.sgd(0.1), maml(2.0))
    state = program.init(tiny.params(), jax.random.key(0))
    batch = episodes(tiny.batch())
    predictions = jax.jit(program.evaluate)(state, batch).predictions
    assert predictions.shape == (tiny.BATCH // 2, tiny.TIME, tiny.CLASSES)
    plain = make_step(supervised(tiny.apply), optax.sgd(2.0))
    for task in range(2):
        support, query = (jax.tree.map(lambda x: x[task], batch[part]) for part in ("support", "query"))  # noqa: B023
        adapted, _ = jax.jit(plain.step)(plain.init(tiny.params(), jax.random.key(0)), support)
        _, expected, _ = plain.evaluate(adapted, query)
        np.testing.assert_allclose(predictions[2 * task : 2 * task + 2], expected, rtol=1e-4, atol=1e-4)
    _, unadapted, _ = program.evaluate(state, tiny.batch())
    np.testing.assert_allclose(unadapted, tiny.apply(tiny.params(), tiny.batch(), None).logits, rtol=1e-5)


def test_tasks_on_devices_and_in_micro_batches_equal_one_batch():
    batch, loss = episodes(tiny.batch(), tasks=4), supervised(tiny.apply)
    expected, _ = gradient_of(maml(0.5), loss, tiny.params(), batch)
    split, _ = gradient_of(maml(0.5), loss, tiny.params(), batch, accumulate=2)
    chex.assert_trees_all_close(split, expected, atol=1e-5)
    program = make_step(loss, optax.sgd(1.0), maml(0.5), axis="data")
    state = program.init(tiny.params(), jax.random.key(0))
    parts = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)
    step = jax.pmap(program.step, axis_name="data", in_axes=(None, 0), devices=jax.devices()[:2])
    after, _ = step(state, parts)
    moved = jax.tree.map(lambda a, b: a - b[0], state.params["model"], after.params["model"])
    chex.assert_trees_all_close(moved, expected, atol=1e-5)


def test_losses_inside_see_a_task_whole_on_its_device():
    axes = []

    def spying(params, batch, context):
        axes.append(context.axis)
        return supervised(tiny.apply)(params, batch, context)

    program = make_step(spying, optax.sgd(1.0), maml(), axis="data")
    state = program.init(tiny.params(), jax.random.key(0))
    jax.pmap(program.step, axis_name="data", in_axes=(None, 0), devices=jax.devices()[:1]).lower(
        state, jax.tree.map(lambda x: x[None], episodes(tiny.batch()))
    )
    assert axes and set(axes) == {None}


def sinusoids(key, tasks=8, shots=10):
    keys = jax.random.split(key, 3)
    amplitude = jax.random.uniform(keys[0], (tasks, 1), minval=0.5, maxval=2.0)
    phase = jax.random.uniform(keys[1], (tasks, 1), maxval=jnp.pi)
    x = jax.random.uniform(keys[2], (tasks, 2 * shots), minval=-3.0, maxval=3.0)
    y = amplitude * jnp.sin(x - phase)
    return {"support": {"x": x[:, :shots], "y": y[:, :shots]}, "query": {"x": x[:, shots:], "y": y[:, shots:]}}


def regression(params, batch, context):
    p = context.join(params)["model"]
    hidden = jnp.tanh(batch["x"][:, None] @ p["a"] + p["b"])
    predicted = (hidden @ p["c"])[:, 0]
    return {"task": jnp.mean(jnp.square(predicted - batch["y"]))}, Outputs(hidden=predicted)


def test_it_learns_to_adapt_where_training_on_all_tasks_can_not():
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "a": jax.random.normal(keys[0], (1, 24)),
        "b": jax.random.normal(keys[1], (24,)),
        "c": jax.random.normal(keys[2], (24, 1)) / 5,
    }

    def adapted_error(inner_rate):
        program = make_step(regression, optimizer(optax.adam, learning_rate=1e-2), maml(inner_rate))

        def body(state, key):
            return program.step(state, sinusoids(key))

        state = program.init(params, jax.random.key(0))
        state, _ = jax.lax.scan(body, state, jax.random.split(jax.random.key(1), 600))
        state = state.with_hyper({"meta.maml.inner_rate": 0.05})
        return program.evaluate(state, sinusoids(jax.random.key(2), tasks=64))[0]["task"]

    learned, joint = jax.jit(adapted_error)(0.05), jax.jit(adapted_error)(0.0)
    assert learned < 0.6 * joint


def test_batches_that_are_not_episodes_are_refused():
    program = make_step(supervised(tiny.apply), optax.sgd(0.1), maml())
    state = program.init(tiny.params(), jax.random.key(0))
    with pytest.raises(KeyError, match="trains on 'support' and 'query', but the batch has input_ids"):
        program.step(state, tiny.batch())
    with pytest.raises(ValueError, match="takes 0 inner steps; give it at least 1"):
        maml(inner_steps=0)
    with pytest.raises(ValueError, match="a batch of 8 does not make 3 episodes"):
        episodes(tiny.batch(), tasks=3)
