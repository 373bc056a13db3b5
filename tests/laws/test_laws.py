"""Laws 1 to 6, 8 and 9 of composition, over every method in the catalogue."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from laws.problem import (
    EXACT,
    NAMES,
    arrays,
    batch_of,
    close,
    compiled,
    dense,
    example,
    initialise,
    problem,
    program_of,
    same_bits,
    start,
    train,
)

import ft_jax
from ft_jax.core import Neutral, compose, parameters, supervised
from ft_jax.core.grafts import ungrafted
from ft_jax.core.members import map_members, member

every_method = pytest.mark.parametrize("name", NAMES)


@every_method
def test_composing_has_an_identity_and_is_associative(name):
    method = example(name)
    program, _ = compiled(name)
    padded = program_of(compose(compose(), method, compose()))
    state = jax.eval_shape(program.init, problem().params, problem().key)
    plain, same = (str(jax.make_jaxpr(one.step)(state, batch_of(name))) for one in (program, padded))
    assert plain == same
    a, b = (ft_jax.adaptive.uncertainty(("task",), name=tag) for tag in ("a", "b"))
    assert compose(compose(a, b), method).parts == compose(a, compose(b, method)).parts == (a, b, method)


@every_method
def test_a_step_is_pure(name):
    program, _ = compiled(name)
    step = jax.jit(program.step, compiler_options=EXACT)
    batch = batch_of(name)
    state = start(program)
    first, metrics = step(state, batch)
    again, metrics_again = step(state, batch)
    same_bits((first, metrics), (again, metrics_again))

    donated, _ = jax.jit(program.step, donate_argnums=0, compiler_options=EXACT)(start(program), batch)
    same_bits(first, donated)

    rematerialised = program_of(example(name), loss=remat_loss())
    other, _ = jax.jit(rematerialised.step)(state, batch)
    close(first.params, other.params)

    twice = jax.vmap(program.step, in_axes=(None, 0))
    mapped, _ = jax.jit(twice)(state, jax.tree.map(lambda x: jnp.stack([x, x]), batch))
    close(first.params, jax.tree.map(lambda x: x[1], mapped.params))


def remat_loss():
    plain = supervised(problem().apply)

    def loss(params, batch, context):
        return jax.checkpoint(lambda params: plain(params, batch, context))(params)

    return loss


@every_method
def test_zero_strength_is_the_step_without_the_method(name):
    entry = ft_jax.catalogue[name]
    if not isinstance(entry.neutral, Neutral):
        assert len(entry.neutral.split()) > 4, f"{name} has no neutral point and no reason why"
        pytest.skip(entry.neutral)
    program, step = compiled(name)
    state = start(program).with_hyper({f"{name}.{number}": value for number, value in entry.neutral.hyper.items()})
    plain = compose() if entry.neutral.like is None else compose(entry.neutral.like(problem()))
    base = program_of(plain)
    batch = batch_of(name)
    base_batch = batch if entry.neutral.batch is None else entry.neutral.batch(batch)
    trained, _ = train(step, state, batch)
    expected, _ = train(jax.jit(base.step), start(base), base_batch)
    ours, theirs = (ungrafted(dense(*one))[0] for one in ((trained, example(name)), (expected, plain)))
    close(ours, theirs, 2e-6)
    moved = [abs(a - b).max() for a, b in zip(arrays(dense(expected, plain)), arrays(problem().params), strict=True)]
    assert max(moved) > 1e-3


@every_method
def test_members_equal_separate_runs(name):
    program, step = compiled(name)
    lifted = map_members(program, 3)
    state, _ = train(jax.jit(lifted.step), start(lifted), batch_of(name))
    for index, key in enumerate(jax.random.split(jax.random.key(3), 3)):
        alone, _ = train(step, initialise(program)(problem().params, key), batch_of(name))
        close(member(state, index).replace(key=key), alone.replace(key=key))


@every_method
def test_micro_batches_equal_one_batch_or_are_refused(name):
    method = example(name)
    if method.couples:
        with pytest.raises(ValueError, match=f"{name} compares the examples of a batch"):
            program_of(method, accumulate=2)
        return
    program, step = compiled(name)
    split = program_of(method, accumulate=2)
    state, history = train(step, start(program), batch_of(name))
    other, split_history = train(jax.jit(split.step), start(program), batch_of(name))
    close(history, split_history)
    close(state, other)


@every_method
def test_devices_do_not_change_the_curve(name):
    program, step = compiled(name)
    batch = batch_of(name)
    state, history = train(step, start(program), batch)

    # Everything starts where the step leaves it, so that the second step compiles nothing.
    count = 2
    mapped = program_of(example(name), axis="data")
    copies = on_mesh({"data": count}, stacked(start(program), count), lambda x: PartitionSpec("data"))
    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    pstep = jax.pmap(mapped.step, axis_name="data", devices=jax.devices()[:count])
    copies, device_history = train(pstep, copies, parts)
    for got, expected in ((device_history, history), (copies, state)):
        close(got, stacked(expected, count))

    shape = {"data": 2, "tensor": 2}
    laid = on_mesh(shape, start(program), columns)
    rows = on_mesh(shape, batch, lambda x: PartitionSpec("data"))
    sharded = jax.jit(program.step, out_shardings=(jax.tree.map(lambda x: x.sharding, laid), None))
    laid, mesh_history = train(sharded, laid, rows)
    # A sharded sum adds in another order, and unoptimised code rounds after every operation.
    close(history, mesh_history, 1e-4)
    close(state, laid, 1e-4)


def stacked(tree, count):
    return jax.tree.map(lambda x: jnp.stack([x] * count), tree)


def on_mesh(shape, tree, spec):
    mesh = jax.make_mesh(tuple(shape.values()), tuple(shape), axis_types=(AxisType.Auto,) * len(shape))
    return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, spec(x))), tree)


def columns(leaf):
    wide = leaf.ndim >= 2 and leaf.shape[-1] % 2 == 0 and jnp.issubdtype(leaf.dtype, jnp.floating)
    return PartitionSpec(*(None,) * (leaf.ndim - 1), "tensor") if wide else PartitionSpec()


@every_method
def test_surgery_starts_at_the_pretrained_function(name):
    entry = ft_jax.catalogue[name]
    if not entry.pretrained:
        pytest.skip("its paper does not start at the pretrained function")
    method, program, _ = without_lift(name)
    state = start(program)
    # A base that was split (PiSSA) is rounded in two parts.
    close(logits_of(parameters(state, method)["model"]), logits_of(problem().params), 3e-6)


def without_lift(name):
    """``(method, program, step)``; nothing instead of a method that lifts, whose members have no one model."""
    if example(name).lift is None:
        return example(name), *compiled(name)
    return compose(), *unlifted()


@functools.cache
def unlifted():
    program = program_of(compose())
    return program, jax.jit(program.step)


@jax.jit
def logits_of(params):
    return problem().apply(params, problem().batch, None).logits


@every_method
def test_merged_weights_give_the_unmerged_outputs(name):
    method, program, step = without_lift(name)
    batch = problem().batch if example(name).lift else batch_of(name)
    state, _ = train(step, start(program), batch)
    if not ft_jax.catalogue[name].mergeable:
        with pytest.raises(ValueError, match=f"{name} .* can't be merged"):
            dense(state, method)
        return
    close(logits_of(parameters(state, method)["model"]), logits_of(dense(state, method)))


@every_method
def test_evaluation_takes_plain_examples(name):
    method = example(name)
    program, _ = compiled(name)
    terms, predictions = jax.jit(program.evaluate)(start(program), problem().batch)
    shape = (*program.trials, *problem().batch["labels"].shape, 32)
    assert predictions.shape == shape
    assert all(jnp.all(jnp.isfinite(value)) for value in terms.values()), method.name


@every_method
def test_changing_any_number_compiles_nothing(name):
    program, step = compiled(name)
    state, batch = start(program), batch_of(name)
    state, _ = step(state, batch)
    state, _ = step(state, batch)
    before = step._cache_size()
    for owner, numbers in state.hyper.items():
        for number, value in numbers.items():
            state, _ = step(state.with_hyper({f"{owner}.{number}": value * 0.9 + 0.01}), batch)
    assert step._cache_size() == before
