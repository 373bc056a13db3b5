"""What a method may say, held on shards: micro-batches, devices and members, alone and all together."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core import tiny

from ft_jax.core import (
    Method,
    Outputs,
    Shared,
    compose,
    jit_step,
    make_step,
    map_members,
    member,
    optimizer,
    outputs_of,
    parameters,
    supervised,
    transition,
    weighted_mean,
)

PLAIN = supervised(tiny.apply)


def squares(inner):
    """A second term, so that terms can disagree."""

    def loss(params, batch, context):
        terms, outputs = inner(params, batch, context)
        return {**terms, "size": weighted_mean(jnp.sum(outputs.hidden**2, axis=-1), batch)}, outputs

    return loss


def projecting_conflicts(inner):
    """PCGrad's rule for two terms (Yu et al. 2020): the whole batch's gradients, or it is another method."""

    def update(gradients, state, params=None, *, event):
        one, other = event.gradient(by_term=True).values()
        dot, size = optax.tree.vdot(one, other), optax.tree.norm(other, squared=True)
        one = jax.tree.map(lambda a, b: a - jnp.minimum(dot, 0.0) / size * b, one, other)
        return inner.update(optax.tree.add(one, other), state, params, event=event)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def sharpness(inner):
    """SAM: the gradient at the worst point of a ball."""

    def update(gradients, state, params=None, *, event):
        scale = 0.1 / optax.global_norm(gradients)
        there = event.gradient(params=jax.tree.map(lambda p, g: p + scale * g, params, gradients))
        return inner.update(there, state, params, event=event)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def hard_half(state, batch, context):
    """Only the half of the batch with the longer rows counts: a threshold over the whole batch."""
    lengths = batch["weights"].sum(axis=1)
    all_lengths = lengths if context.axis is None else jax.lax.all_gather(lengths, context.axis, tiled=True)
    keep = lengths >= jnp.median(all_lengths)
    return state, {**batch, "weights": batch["weights"] * keep[:, None]}


def apart(own, everyone, start, shared, own_weights, all_weights):
    """A contrastive loss of pooled rows; padding is nobody's neighbour."""
    place = start + jnp.arange(own.shape[0])
    likeness = jnp.where(all_weights > 0, own @ everyone.T * shared, -jnp.inf)
    return jnp.mean(own_weights * (jax.nn.logsumexp(likeness, axis=1) - likeness[jnp.arange(len(place)), place]))


def contrasting(inner):
    def loss(params, batch, context):
        terms, outputs = inner(params, batch, context)
        key = context.dropout_key
        rows = outputs.hidden.mean(axis=1)
        # A mask of the shard's own key, as dropout has it: the second pass must draw it again.
        keep = 1.0 if key is None else jax.random.bernoulli(jax.random.fold_in(context.key, 7), 0.5, rows.shape[1:])
        scale = jnp.exp(params["model"]["layer"]["bias"][0])
        return {**terms, "contrast": context.couple(apart, rows * keep, scale, batch["example_share"])}, outputs

    return loss


METHODS = {
    "terms": Method("terms", loss=squares),
    "conflicts": compose(Method("project", update=projecting_conflicts, per_term=True), Method("terms", loss=squares)),
    "asked without saying so": compose(Method("project", update=projecting_conflicts), Method("terms", loss=squares)),
    "sharpness": Method("sam", update=sharpness),
    "prepared": Method("hard", prepare=hard_half),
    "coupled": Method("contrast", loss=contrasting),
    "coupled and projected": compose(
        Method("project", update=projecting_conflicts, per_term=True), Method("contrast", loss=contrasting)
    ),
}


@functools.cache
def trained(name, accumulate=1, axis=None, members=None):
    build = optimizer(optax.sgd, learning_rate=0.1, momentum=0.9)
    program = make_step(PLAIN, build, METHODS[name], accumulate=accumulate, axis=axis)
    if members:
        program = map_members(program, members, keys=lambda key: jnp.broadcast_to(key, (members,)))
    state, batch = program.init(tiny.params(), jax.random.key(0)), tiny.batch()
    if axis:
        state = jax.tree.map(lambda x: jnp.stack([x, x]), state)
        batch = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)
        step = jax.pmap(program.step, axis_name=axis, devices=jax.devices()[:2])
    else:
        step = jax.jit(program.step)
    for _ in range(2):
        state, metrics = step(state, batch)
    first = lambda x: x[0] if axis else x  # noqa: E731
    return jax.tree.map(first, (state.params, metrics))


@pytest.mark.parametrize("name", METHODS)
def test_shards_are_the_whole_batch(name):
    whole = trained(name)
    chex.assert_trees_all_close(trained(name, accumulate=2), whole, atol=2e-6, rtol=2e-6)
    chex.assert_trees_all_close(trained(name, axis="data"), whole, atol=2e-6, rtol=2e-6)
    together = trained(name, accumulate=2, axis="data", members=3)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], together), whole, atol=2e-6, rtol=2e-6)


def test_asking_for_terms_gives_the_same_said_or_not():
    chex.assert_trees_all_close(trained("conflicts"), trained("asked without saying so"), atol=1e-6)


def flops(method):
    program = make_step(PLAIN, optax.sgd(0.1), method)
    state = program.init(tiny.params(), jax.random.key(0))
    return jax.jit(program.step).lower(state, tiny.batch()).compile().cost_analysis()["flops"]


def test_a_step_pays_for_terms_apart_only_where_someone_asks():
    terms = Method("terms", loss=squares)
    plain, both = flops(terms), flops(METHODS["conflicts"])
    never = Method("never", update=lambda inner: inner)
    assert flops(compose(never, terms)) == plain
    assert plain < both < 2.0 * plain


def test_an_event_gives_the_gradient_of_a_term_of_another_batch_at_other_parameters():
    seen = {}

    def spying(inner):
        def update(gradients, state, params=None, *, event):
            other = jax.tree.map(lambda x: x[:3], tiny.batch())
            there = jax.tree.map(lambda p: 0.5 * p, params)
            seen["got"] = event.gradient(other, params=there, terms=("task",))
            seen["value"] = event.value_at(params), event.value
            return inner.update(gradients, state, params, event=event)

        return optax.GradientTransformationExtraArgs(inner.init, update)

    method = compose(Method("spy", update=spying), Method("terms", loss=squares))
    program = make_step(PLAIN, optax.sgd(0.1), method, accumulate=2)
    state = program.init(tiny.params(), jax.random.key(0))
    program.step(state, tiny.batch())

    def by_hand(params):
        batch = jax.tree.map(lambda x: x[:3], tiny.batch())
        logs = jax.nn.log_softmax(tiny.apply(params, batch, None).logits)
        chosen = jnp.take_along_axis(logs, batch["labels"][..., None], -1)[..., 0]
        return -jnp.sum(chosen * batch["weights"]) / jnp.sum(batch["weights"])

    expected = jax.grad(by_hand)(jax.tree.map(lambda p: 0.5 * p, tiny.params()))
    chex.assert_trees_all_close(seen["got"]["model"], expected, atol=1e-6)
    np.testing.assert_allclose(*seen["value"], rtol=1e-6)


@pytest.mark.parametrize(
    "build",
    [
        lambda: optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.05), sync_period=2, opaque_mode=True),
        lambda: optax.lbfgs(),
        lambda: optax.contrib.momo(0.1),
        lambda: optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau(patience=2)),
        lambda: optax.contrib.prodigy(),
    ],
)
def test_optax_gets_the_extra_arguments_that_it_takes(build):
    program = make_step(PLAIN, build(), Method("terms", loss=squares), accumulate=2)
    state = program.init(tiny.params(), jax.random.key(0))
    step = jax.jit(program.step)
    history = []
    for _ in range(3):
        state, metrics = step(state, tiny.batch())
        history.append(float(metrics["loss"]))
    assert np.isfinite(history).all() and history[-1] < history[0]


def doubling(inner):
    """A forward pass that depends on the example: even rows see their hidden states doubled."""

    def forward(params, batch, context):
        outputs = inner(params, batch, context)
        even = (jnp.arange(outputs.hidden.shape[0]) % 2 == 0)[:, None, None]
        return Outputs(jnp.where(even, 2 * outputs.hidden, outputs.hidden), outputs.unembedding)

    return forward


def halved(state):
    return state.replace(params=jax.tree.map(lambda p: p / 2, state.params))


def test_what_is_served_is_what_is_evaluated():
    method = compose(Method("double", forward=doubling), Method("half", settle=halved))
    program = make_step(PLAIN, optax.sgd(0.1), method)
    state, batch = program.init(tiny.params(), jax.random.key(0)), tiny.batch()
    evaluated = program.evaluate(state, batch)
    np.testing.assert_array_equal(outputs_of(state, method, tiny.apply, batch).logits, evaluated.predictions)
    small = jax.tree.map(lambda p: p / 2, tiny.params())
    np.testing.assert_allclose(evaluated.predictions[1], tiny.apply(small, batch, None).logits[1], rtol=1e-6)
    assert not np.allclose(evaluated.predictions[0], tiny.apply(small, batch, None).logits[0])
    chex.assert_trees_all_equal(parameters(state, method)["model"], small)
    chex.assert_trees_all_equal(program.parameters(state)["model"], small)
    # Training goes on with what it was.
    after, _ = program.step(state, batch)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), after.params["model"], tiny.params())
    assert max(jax.tree.leaves(moved)) < 0.2


def test_a_step_reports_its_rate_what_methods_report_and_what_they_set():
    def after_step(state, event):
        return state.with_hyper({"optimizer.learning_rate": state.hyper["optimizer"]["learning_rate"] / 2})

    method = Method("halving", after_step=after_step, report=lambda state: {"halving/steps": state.step})
    build = optimizer(optax.sgd, learning_rate=0.4, schedule=lambda step: 1.0 / (step + 1))
    program = make_step(PLAIN, build, method)
    state = program.init(tiny.params(), jax.random.key(0))
    for count, rate in enumerate((0.4, 0.1), start=1):
        state, metrics = program.step(state, tiny.batch())
        assert float(metrics["learning_rate"]) == pytest.approx(rate)
        assert int(metrics["halving/steps"]) == count
        assert float(metrics["hyper.optimizer.learning_rate"]) == pytest.approx(0.4 / 2**count)


def test_events_go_part_by_part_from_the_innermost():
    def adding(digit):
        def after_eval(state, event):
            return state.replace(memory={**state.memory, "sum": 10 * state.memory["sum"] + digit})

        return after_eval

    outer = Method("outer", memory=lambda params, key: 0, after_eval=adding(1))
    inner = Method("inner", after_eval=adding(2))
    program = make_step(PLAIN, optax.sgd(0.1), compose(outer, inner))
    state = program.init(tiny.params(), jax.random.key(0))
    state = state.replace(memory={"sum": jnp.int32(0)})
    assert list(program.after_eval) == ["inner", "outer"]
    assert int(program.after_eval(state, {}).memory["sum"]) == 21
    assert not make_step(PLAIN, optax.sgd(0.1)).after_eval


def test_members_share_the_steps_number_and_what_their_lift_remembers():
    def lift(program, build):
        lifted = map_members(program, 3, name="herd")
        return lifted

    program = make_step(PLAIN, optax.sgd(0.1), Method("herd", lift=lift))
    state = program.init(tiny.params(), jax.random.key(0)).remember("herd", Shared(jnp.arange(5), owner="herd"))
    state, _ = jit_step(program.step)(state, tiny.batch())
    assert state.step.shape == () and int(state.step) == 1
    one = member(state, 2)
    assert one.memory["herd"].value.shape == (5,) and one.params["model"]["layer"]["kernel"].ndim == 2


def test_members_may_read_their_own_batches():
    program = map_members(make_step(PLAIN, optax.sgd(0.1)), 2, own_batches=True)
    state = program.init(tiny.params(), jax.random.key(0))
    batch = tiny.batch()
    halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)
    state, _ = program.step(state, halves)
    for index in range(2):
        alone = make_step(PLAIN, optax.sgd(0.1))
        expected, _ = alone.step(
            alone.init(tiny.params(), jax.random.key(0)), jax.tree.map(lambda x, i=index: x[i], halves)
        )
        chex.assert_trees_all_close(member(state, index).params, expected.params, atol=1e-6)


def test_a_lift_can_build_other_programs():
    inside = {}

    def lift(program, build):
        inside["candidate"] = build(Method("half", settle=halved))
        return program

    program = make_step(PLAIN, optax.sgd(0.1), Method("chooser", lift=lift))
    state = program.init(tiny.params(), jax.random.key(0))
    chex.assert_trees_all_equal(inside["candidate"].parameters(state)["model"]["table"], tiny.params()["table"] / 2)


def test_a_head_grows_and_what_was_learned_stays():
    def with_classes(count):
        params = tiny.params()
        return {**params, "head": {"kernel": jnp.full((tiny.WIDTH, count), 9.0)}}

    build = optimizer(optax.adam, learning_rate=0.1)
    program = make_step(PLAIN, build)
    state, _ = program.step(program.init(with_classes(tiny.CLASSES), jax.random.key(0)), tiny.batch())
    grown = transition(state, program.init(with_classes(tiny.CLASSES + 2), jax.random.key(5)))
    assert int(grown.step) == 1
    for before, after in zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(grown.opt_state), strict=True):
        np.testing.assert_array_equal(before, after[tuple(slice(size) for size in before.shape)])
    np.testing.assert_array_equal(grown.params["model"]["head"]["kernel"][:, -2:], 9.0)
    np.testing.assert_array_equal(grown.params["model"]["table"], state.params["model"]["table"])
    program.step(grown, tiny.batch())


def test_a_preparation_must_make_what_the_losses_take():
    rollouts = Method("rollouts", prepare=lambda s, b, c: (s, b), reads="examples", gives="prompts")
    episodes = Method("episodes", gives="episodes")
    assert compose(rollouts).names == ("rollouts",)
    for order in ((rollouts, episodes), (episodes, rollouts)):
        with pytest.raises(ValueError, match="rollouts makes a batch of examples, but episodes takes episodes"):
            compose(*order)


@pytest.mark.parametrize("wrong", [make_step, "transfer.lora", 3])
def test_what_is_no_method_is_refused_at_once(wrong):
    with pytest.raises(TypeError, match="compose takes methods and compositions, and got"):
        compose(wrong)


def test_a_method_prints_in_a_line():
    assert repr(Method("a.b", hyper={"weight": 0.5})) == "Method('a.b', weight=0.5)"
