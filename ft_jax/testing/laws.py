"""The laws that every method keeps: ``law(subject)`` raises an AssertionError, or returns why it does not apply."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ft_jax.core import Method, Neutral, compose
from ft_jax.core.grafts import ungrafted
from ft_jax.core.members import map_members, member
from ft_jax.testing import padding, serving
from ft_jax.testing.comparing import close, finite, host, same_bits
from ft_jax.testing.problem import VOCABULARY, program_of, rematerialised
from ft_jax.testing.subject import STEPS, Subject, copied, plain_like, trained

DEVICES, MEMBERS = 2, 3


def composing_has_an_identity_and_is_associative(subject: Subject) -> None:
    """Grouping methods, and composing with nothing, change nothing."""
    inner = compose(subject.method)
    assert compose(compose(), inner, compose()).parts == compose(inner).parts == inner.parts
    a, b = (Method(tag, hyper={"rate": 1.0}) for tag in ("a", "b"))
    assert compose(compose(a, b), inner).parts == compose(a, compose(b, inner)).parts == (a, b, *inner.parts)


def a_step_is_pure(subject: Subject) -> None:
    """The same state and batch give the same bits, and a second state of the same key is the same state."""
    same_bits(subject.start(), subject.start(jax.random.key(3)))
    once, again = subject.train(steps=1), subject.train(steps=1)
    same_bits(once, again)
    assert finite(once[1]), f"the first step's metrics are {once[1]}"


def zero_strength_is_the_step_without_the_method(subject: Subject) -> str | None:
    """At its neutral point a method trains exactly like the step without it."""
    neutral = subject.neutral
    if not isinstance(neutral, Neutral):
        assert len(neutral.split()) > 4, f"{subject.name} has no neutral point and no reason why"
        return neutral
    plain = plain_like(subject)
    numbers = {f"{subject.name}.{number}": value for number, value in neutral.hyper.items()}
    state, _ = subject.train(subject.start().with_hyper(numbers))
    batch = subject.batch if neutral.batch is None else neutral.batch(subject.batch)
    expected, _ = plain.train(batch=batch)
    ours, theirs = (ungrafted(one.dense(state))[0] for one, state in ((subject, state), (plain, expected)))
    close(ours, theirs, 2e-6)
    before = jax.tree.leaves(host(subject.problem.params))
    moved = [abs(a - b).max() for a, b in zip(jax.tree.leaves(host(theirs)), before, strict=True)]
    assert max(moved) > 1e-3, "the plain step did not move"


def members_devices_and_micro_batches_change_nothing(subject: Subject) -> None:
    """Three members on two devices with two micro-batches each, rematerialised, equal three separate plain runs.

    What is drawn and does not learn is one for all members, see `ft_jax.core.members.map_members`.
    """
    program = program_of(subject.method, subject.layers, rematerialised(subject.layers), accumulate=2, axis="data")
    lifted = map_members(program, MEMBERS)
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    copies = placed(mesh, stacked(lifted.init(subject.problem.params, jax.random.key(3)), DEVICES), first_axis)
    parts = placed(mesh, jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), subject.batch), first_axis)
    step = jax.pmap(lifted.step, axis_name="data", devices=jax.devices()[:DEVICES])
    copies, history = trained(step, copies, parts)
    one, other = (jax.tree.map(lambda x: x[device], (host(copies), host(history))) for device in range(DEVICES))  # noqa: B023
    close(one, other, 1e-6)
    shared = member(one[0], 0).frozen
    for index, key in enumerate(jax.random.split(jax.random.key(3), MEMBERS)):
        alone, metrics = subject.train(subject.start(key).replace(frozen=shared))
        close(host(member(one[0], index).replace(key=None)), host(alone.replace(key=None)))
        close(jax.tree.map(lambda x: x[index], one[1]), metrics)  # noqa: B023


def a_mesh_does_not_change_the_curve(subject: Subject) -> None:
    """Examples and parameters split over two devices by the compiler: the same curve."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    rows = placed(mesh, subject.batch, first_axis)
    state, history = copied(subject.start()), []
    for _ in range(STEPS):
        # The compiler may leave the state elsewhere; laid out anew, the next step compiles nothing.
        state, metrics = subject.step(placed(mesh, state, lambda x: columns(x, "data")), rows)
        history.append(metrics)
    # A sharded sum adds in another order, and unoptimised code rounds after every operation.
    close((state, history), subject.run, 1e-4)


def surgery_starts_at_the_pretrained_function(subject: Subject) -> str | None:
    """Right after surgery the outputs equal the base's."""
    if not subject.pretrained:
        return "its paper does not start at the pretrained function"
    one = subject.one_model
    # A base that was split (PiSSA) is rounded in two parts.
    close(one.answers(one.start()), one.logits(one.problem.params), 3e-6)
    return None


def merged_weights_give_the_unmerged_outputs(subject: Subject) -> None:
    """What one saves answers as what was trained."""
    one = subject.one_model
    state, _ = one.run
    if not subject.mergeable:
        try:
            one.dense(state)
        except ValueError as error:
            assert subject.name in str(error) and "can't be merged" in str(error), str(error)
            return
        raise AssertionError(f"{subject.name} merges, and its entry says that it can't")
    close(one.answers(state), one.logits(one.dense(state)))


def evaluation_takes_plain_examples(subject: Subject) -> None:
    """Whatever a method trains on, evaluating takes examples and gives finite terms and everyone's predictions."""
    evaluation = subject.program.evaluate(subject.start(), subject.problem.batch)
    shape = (*subject.program.trials, *subject.problem.batch["labels"].shape, VOCABULARY)
    assert evaluation.predictions.shape == shape, f"predictions are {evaluation.predictions.shape}, not {shape}"
    assert finite(evaluation.terms), f"{subject.name} evaluates to {evaluation.terms}"


def changing_any_number_compiles_nothing(subject: Subject) -> None:
    """One compiled step serves all values of all numbers."""
    state, _ = subject.train(steps=2)
    before = subject.step.compilations()
    numbers = [(owner, number, value) for owner, all_ in state.hyper.items() for number, value in all_.items()]
    for owner, number, value in numbers:
        subject.train(state.with_hyper({f"{owner}.{number}": value * 0.9 + 0.01}), steps=1)
    assert subject.step.compilations() == before, f"a number of {subject.name} compiles the step again"


LAWS = (
    composing_has_an_identity_and_is_associative,
    a_step_is_pure,
    zero_strength_is_the_step_without_the_method,
    members_devices_and_micro_batches_change_nothing,
    a_mesh_does_not_change_the_curve,
    surgery_starts_at_the_pretrained_function,
    merged_weights_give_the_unmerged_outputs,
    evaluation_takes_plain_examples,
    changing_any_number_compiles_nothing,
    serving.resume_is_bitwise_invisible,
    serving.what_is_served_answers_as_evaluation,
    padding.padding_counts_nothing,
)


def placed(mesh: jax.sharding.Mesh, tree: Any, spec: Any) -> Any:
    """`tree` laid on `mesh`, each leaf as ``spec(leaf)`` says."""
    return jax.device_put(tree, jax.tree.map(lambda x: NamedSharding(mesh, spec(x)), tree))


def first_axis(leaf: jax.Array) -> PartitionSpec:
    """A leaf's first axis over the devices."""
    return PartitionSpec("data")


def columns(leaf: jax.Array, axis: str) -> PartitionSpec:
    """A matrix's columns over the devices of `axis`; what is no matrix everywhere."""
    wide = leaf.ndim >= 2 and leaf.shape[-1] % DEVICES == 0 and jnp.issubdtype(leaf.dtype, jnp.floating)
    return PartitionSpec(*(None,) * (leaf.ndim - 1), axis) if wide else PartitionSpec()


def stacked(tree: Any, count: int) -> Any:
    """`count` copies of every leaf, on a new first axis."""

    def one(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(leaf)))
        return np.broadcast_to(np.asarray(leaf), (count, *leaf.shape))

    return jax.tree.map(one, tree)
