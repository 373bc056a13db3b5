import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core import tiny

from ft_jax.core import (
    Method,
    compose,
    jit_step,
    make_step,
    merge,
    only,
    optimizer,
    parameters,
    supervised,
    warmup_then_decay,
)
from ft_jax.core.members import map_members


def program(**options):
    build = optimizer(optax.adamw, learning_rate=1e-2, weight_decay=0.01, max_norm=0.5)
    return make_step(supervised(tiny.apply, chunk=5), build, **options)


def test_a_step_equals_the_loop_written_by_hand():
    batch, params = tiny.batch(), tiny.params()
    hand = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2, weight_decay=0.01))
    opt_state, expected = hand.init(params), params

    def loss(params):
        logits = tiny.apply(params, batch, None).logits
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["labels"][..., None], -1)[..., 0]
        return -jnp.sum(batch["weights"] * chosen) / jnp.sum(batch["weights"])

    state = program().init(params, jax.random.key(0))
    step = jax.jit(program().step)
    for _ in range(4):
        value, gradients = jax.value_and_grad(loss)(expected)
        updates, opt_state = hand.update(gradients, opt_state, expected)
        expected = optax.apply_updates(expected, updates)
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
        np.testing.assert_allclose(metrics["gradient_norm"], optax.global_norm(gradients), rtol=1e-5)
    chex.assert_trees_all_close(merge(parameters(state, compose())["model"]), expected, atol=1e-5)


def test_a_hundred_steps_and_any_change_of_numbers_compile_once():
    one = program()
    step = jit_step(one.step)
    state, batch = one.init(tiny.params(), jax.random.key(0)), tiny.batch()
    for i in range(100):
        state, _ = step(state, batch)
        state = state.with_hyper({f"optimizer.{number}": 0.01 * (i + 1) for number in state.hyper["optimizer"]})
    assert step.compilations() == 1


def test_a_step_moves_nothing_between_host_and_device():
    one = program()
    step = jit_step(one.step)
    state, batch = one.init(tiny.params(), jax.random.key(0)), jax.device_put(tiny.batch())
    state, _ = step(state, batch)
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            state, _ = step(state, batch)


def test_donation_leaves_the_models_parameters_alone():
    params = tiny.params()
    copies = jax.tree.map(np.array, params)

    def snapshot(trainable, key):
        return {"before": trainable, "again": trainable}

    frozen_table = Method("half", trainable=only("*/layer/*", "*/head/*"), memory=snapshot)
    one = program(method=frozen_table)
    state, step = one.init(params, jax.random.key(0)), jit_step(one.step)
    for _ in range(3):
        state, _ = step(state, tiny.batch())
    chex.assert_trees_all_equal(params, copies)
    chex.assert_trees_all_equal(state.memory["half"]["before"]["model"]["layer"], copies["layer"])


def test_members_clip_by_their_own_norm():
    one = program()
    lifted = map_members(one, 2)
    state = lifted.init(tiny.params(), jax.random.key(0))
    scaled = jax.tree.map(lambda leaf: leaf.at[1].multiply(3.0), state.params)
    state = state.replace(params=scaled)
    after, metrics = jax.jit(lifted.step)(state, tiny.batch())
    assert metrics["gradient_norm"].shape == (2,) and metrics["gradient_norm"][0] != metrics["gradient_norm"][1]
    alone = one.init(tiny.params(), jax.random.key(0))
    alone, _ = jax.jit(one.step)(alone, tiny.batch())
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], after.params), alone.params, atol=1e-6)


def test_micro_batches_give_predictions_in_the_batchs_order():
    seen = {}

    def after_step(state, event):
        seen["predictions"] = event.predictions
        return state.remember("spy", event.predictions)

    spy = Method(
        "spy", memory=lambda params, key: jnp.zeros((tiny.BATCH, tiny.TIME, tiny.CLASSES)), after_step=after_step
    )
    one = make_step(supervised(tiny.apply), optax.sgd(0.0), spy, accumulate=4)
    state, _ = jax.jit(one.step)(one.init(tiny.params(), jax.random.key(0)), tiny.batch())
    np.testing.assert_allclose(state.memory["spy"], tiny.apply(tiny.params(), tiny.batch(), None).logits, atol=1e-5)


def test_a_batch_that_does_not_divide_into_micro_batches_is_refused():
    one = program(accumulate=3)
    with pytest.raises(ValueError, match="a batch of 8 does not divide into 3 micro-batches"):
        one.step(one.init(tiny.params(), jax.random.key(0)), tiny.batch())


def test_an_unknown_number_names_the_nearest():
    state = program().init(tiny.params(), jax.random.key(0))
    with pytest.raises(KeyError, match=r"no number 'optimizer.learning_rat'; the nearest are optimizer.learning_rate"):
        state.with_hyper({"optimizer.learning_rat": 1.0})


def test_a_schedule_scales_the_rate_and_needs_one():
    schedule = warmup_then_decay(10, warmup=0.2)
    np.testing.assert_allclose([float(schedule(i)) for i in (0, 1, 2, 10)], [0.5, 1.0, 1.0, 0.0], atol=1e-6)
    assert float(schedule(6)) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="a schedule scales learning_rate"):
        optimizer(optax.scale_by_adam, schedule=schedule)


def test_one_name_twice_is_refused():
    with pytest.raises(ValueError, match="a is named twice"):
        compose(Method("a"), Method("a"))


def test_a_layout_nobody_gives_is_refused_with_the_order_that_works():
    reader, splitter = Method("reader", reads="examples"), Method("splitter", gives="episodes")
    assert compose(splitter, reader).names == ("splitter", "reader")
    with pytest.raises(ValueError, match="reader reads a batch of examples, but splitter.*name reader after splitter"):
        compose(reader, splitter)
