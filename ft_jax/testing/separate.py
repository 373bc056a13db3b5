"""The laws one at a time, each with programs of its own: what `ft_jax.testing.laws` holds together, told apart.

Slower by far, and meant for ``make laws`` and for finding out which law it is that a method breaks.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from ft_jax.core import compose
from ft_jax.core.members import map_members, member
from ft_jax.testing.comparing import close, host, same_bits
from ft_jax.testing.laws import DEVICES, MEMBERS, columns, first_axis, placed, stacked
from ft_jax.testing.problem import program_of, rematerialised
from ft_jax.testing.subject import Subject, trained

EMITTERS = "xla_cpu_use_fusion_emitters"


def composing_with_nothing_traces_the_same_program(subject: Subject) -> None:
    """The step of ``compose(compose(), method, compose())`` is the method's, operation by operation."""
    padded = program_of(compose(compose(), subject.method, compose()), subject.layers)
    traced = [
        str(jax.make_jaxpr(program.step)(subject.start(), subject.batch)) for program in (subject.program, padded)
    ]
    assert traced[0] == traced[1]


def donating_the_state_keeps_the_bits(subject: Subject) -> None:
    """With XLA's own choice of generator, whose bits do not depend on what is donated."""
    quicker = EMITTERS in os.environ.get("XLA_FLAGS", "")
    options = {"compiler_options": {EMITTERS: True}} if quicker else {}
    step, state = jax.jit(subject.program.step, **options), subject.start()
    first = step(state, subject.batch)
    same_bits(first, step(state, subject.batch))
    donating = jax.jit(subject.program.step, donate_argnums=0, **options)
    same_bits(first, donating(jax.tree.map(jnp.copy, state), subject.batch))


def rematerialisation_changes_nothing(subject: Subject) -> None:
    """The forward pass computed again for the backward pass."""
    program = program_of(subject.method, subject.layers, rematerialised(subject.layers))
    close(trained(jax.jit(program.step), subject.start(), subject.batch), subject.run)


def a_step_mapped_over_batches_is_two_steps(subject: Subject) -> None:
    """`jax.vmap` over the batch, the state not mapped."""
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), subject.batch)
    state, metrics = jax.jit(jax.vmap(subject.program.step, in_axes=(None, 0)))(subject.start(), twice)
    expected, told = subject.train(steps=1)
    for index in range(2):
        close(*(one.replace(frozen=None, key=None) for one in (jax.tree.map(lambda x: x[index], state), expected)))  # noqa: B023
        close(jax.tree.map(lambda x: x[index], metrics), told[0])  # noqa: B023


def members_equal_separate_runs(subject: Subject) -> None:
    """Three members in one program equal three runs."""
    lifted = map_members(subject.program, MEMBERS)
    state, history = trained(
        jax.jit(lifted.step), lifted.init(subject.problem.params, jax.random.key(3)), subject.batch
    )
    for index, key in enumerate(jax.random.split(jax.random.key(3), MEMBERS)):
        alone, metrics = subject.train(subject.start(key))
        # Two layers of second derivatives (MAML) round to 2e-5 of a momentum.
        close(member(state, index).replace(key=key), alone.replace(key=key), 5e-5)
        close(jax.tree.map(lambda x: x[index], history), metrics)  # noqa: B023


def micro_batches_equal_one_batch(subject: Subject) -> None:
    """Two micro-batches equal one batch of both."""
    split = program_of(subject.method, subject.layers, accumulate=2)
    close(trained(jax.jit(split.step), subject.start(), subject.batch), subject.run)


def devices_equal_one(subject: Subject) -> None:
    """`jax.pmap` over two devices, each with its part of the batch."""
    program = program_of(subject.method, subject.layers, axis="data")
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    # Everything starts where the step leaves it, so that the second step compiles nothing.
    copies = placed(mesh, stacked(subject.start(), DEVICES), first_axis)
    parts = placed(mesh, jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), subject.batch), first_axis)
    step = jax.pmap(program.step, axis_name="data", devices=jax.devices()[:DEVICES])
    close(host(trained(step, copies, parts)), stacked(host(subject.run), DEVICES))


def a_mesh_of_data_and_tensors_equals_one_device(subject: Subject) -> None:
    """Examples over one axis of a mesh of four devices, the columns of matrices over the other."""
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    laid = placed(mesh, subject.start(), lambda x: columns(x, "tensor"))
    step = jax.jit(subject.program.step, out_shardings=(jax.tree.map(lambda x: x.sharding, laid), None))
    # A sharded sum adds in another order, and unoptimised code rounds after every operation.
    close(trained(step, laid, placed(mesh, subject.batch, first_axis)), subject.run, 1e-4)


SEPARATE: tuple[Any, ...] = (
    composing_with_nothing_traces_the_same_program,
    donating_the_state_keeps_the_bits,
    rematerialisation_changes_nothing,
    a_step_mapped_over_batches_is_two_steps,
    members_equal_separate_runs,
    micro_batches_equal_one_batch,
    devices_equal_one,
    a_mesh_of_data_and_tensors_equals_one_device,
)
