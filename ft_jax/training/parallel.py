"""One program on one device, on many by pmap, or on a mesh by jit and NamedSharding."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ft_jax.core import Program, TrainState, jit_step
from ft_jax.core.mesh import BATCH_AXES, traced_for
from ft_jax.core.program import Events
from ft_jax.outside import printable
from ft_jax.training.sharding import MEMBERS, RULES, Rule, own_rows, own_shards, put_on, shardings, state_shardings


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices as a grid: `data` copies, parameters split over `fsdp`, matrices over `tensor`, ensembles over `members`.

    Attributes:
      data, fsdp, tensor: how many along each axis; one of them may be -1 for all devices that are left.
      rules: see `ft_jax.training.sharding.RULES`, which are taken where a path fits none of these.
      members: how many along the axis over which the members of an ensemble or a population are split; each place holds
        its members' parameters, moments and memories, and all see the same batch.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    rules: tuple[Rule, ...] = ()
    members: int = 1

    def build(self, devices: list) -> jax.sharding.Mesh:
        """The grid over `devices`.

        Raises:
          ValueError: more places than devices, or none.
        """
        # Without members there is no axis of them, and the mesh is what it is without the word.
        named = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        named |= {} if self.members == 1 else {MEMBERS: self.members}
        sizes = list(named.values())
        if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
            raise ValueError(f"mesh({_told(named)}) is no grid; give numbers above 0, and -1 at most once")
        if -1 in sizes:
            sizes[sizes.index(-1)] = max(1, len(devices) // math.prod(size for size in sizes if size != -1))
        count = math.prod(sizes)
        if count > len(devices):
            raise ValueError(
                f"mesh({_told(dict(zip(named, sizes, strict=True)))}) needs {count} devices, but there "
                f"{'is' if len(devices) == 1 else 'are'} {len(devices)}; make the mesh smaller"
            )
        return jax.sharding.Mesh(np.array(devices[:count]).reshape(sizes), tuple(named))


def _told(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{axis}={size}" for axis, size in sizes.items())


Parallelism = Literal["single", "pmap"] | Mesh


def as_parallelism(value: Parallelism | str) -> Parallelism:
    """`value`, with a mesh also as text: ``"mesh(2,2,2)"`` is ``Mesh(data=2, fsdp=2, tensor=2)``, a fourth its members.

    Example:
      >>> as_parallelism("mesh(2,1,1,4)")
      Mesh(data=2, fsdp=1, tensor=1, rules=(), members=4)
    """
    if isinstance(value, Mesh) or value in ("single", "pmap"):
        return value
    if isinstance(value, str) and value.startswith("mesh(") and value.endswith(")"):
        sizes = value[len("mesh(") : -1].split(",")
        axes = ("data", "fsdp", "tensor", "members")
        if 1 <= len(sizes) <= len(axes) and all(size.strip().lstrip("-").isdigit() for size in sizes):
            return Mesh(**dict(zip(axes, map(int, sizes), strict=False)))
    raise ValueError(f"parallelism is {printable(value)}; use 'single', 'pmap' or a mesh such as 'mesh(2,2,2)'")


@dataclasses.dataclass(frozen=True)
class Outline:
    """Shapes in place of values.

    Attributes:
      step: ``(state, batch)`` to the shapes of what a step gives.
      measure: ``(state, batch)`` to those of a measurement.
    """

    step: Callable[[TrainState, Any], tuple[TrainState, Any]]
    measure: Callable[[TrainState, Any], Any]


@dataclasses.dataclass(frozen=True)
class Distributed:
    """A program placed on devices; a state here lives there and is used up by the functions that change it.

    Attributes:
      program: the pure functions.
      init: ``(params, key) -> state``.
      step: ``(state, batch) -> (state, metrics)``, compiled, the state donated.
      measure: ``(state, batch) -> sums``, compiled.
      after_task, after_eval: the program's, compiled part by part.
      ask: ``axis -> (state, batch) -> arrays of rows`` to what takes a state on the devices and a host batch, this
        process's share, and gives its rows' arrays on the host, compiled.
      put_batch: a host batch, this process's share, to the devices.
      put_whole: a host batch that every process has, such as one for evaluation.
      collect: a state, or a part of one, as a single copy, such as to save it.
      spread: a collected state without its frozen part, to the devices.
      shards: parts that a batch must divide into.
      compilations: how many times the step was compiled (under pmap and on a mesh: traced).
      outline: shapes of what a step and a measurement give, by tracing the very functions that will run, which then are
        not traced again; None where several devices run them.
    """

    program: Program
    init: Callable[[Any, jax.Array], TrainState]
    step: Callable[[TrainState, Any], tuple[TrainState, Any]]
    measure: Callable[[TrainState, Any], Any]
    after_task: Events
    after_eval: Events
    ask: Callable[[Callable[[str | None], Callable]], Callable]
    put_batch: Callable[[Mapping[str, Any]], Any]
    put_whole: Callable[[Mapping[str, Any]], Any]
    collect: Callable[[TrainState], TrainState]
    spread: Callable[[TrainState], TrainState]
    shards: int
    compilations: Callable[[], int]
    outline: Outline | None = None


def parallelise(
    build: Callable[[str | None], Program],
    parallelism: Parallelism | str = "single",
    measure: Callable[[Program, str | None], Callable[[TrainState, Any], Any]] | None = None,
) -> Distributed:
    """Places a program on the devices.

    Args:
      build: the name of the mapped device axis, or None, to a program (`ft_jax.core.make_step`'s ``axis``).
      parallelism: ``"single"`` for the first device, ``"pmap"`` for plain data parallelism over all, or a `Mesh`.
      measure: ``(program, axis) -> (state, batch) -> anything`` to compile beside the step; what it gives must
        be the same on every device of a mapped axis. The program's ``evaluate`` by default.
    """
    parallelism = as_parallelism(parallelism)
    measure = (lambda program, axis: program.evaluate) if measure is None else measure
    if parallelism == "single":
        return _single(build(None), measure)
    if parallelism == "pmap":
        return _pmap(build("data"), measure)
    return _mesh(build(None), parallelism, measure)


def check_divides(count: int, shards: int, accumulate: int = 1) -> None:
    """Raises ValueError, in one sentence, on a batch that doesn't divide over devices and micro-batches."""
    if count % (shards * accumulate):
        over = f"over {shards} devices" if accumulate == 1 else f"over {shards} devices with {accumulate} micro-batches"
        fit = max(1, round(count / (shards * accumulate))) * shards * accumulate
        raise ValueError(f"a batch of {count} does not divide {over}; use budget.batch_size {fit}")


def _apart(function):
    """``(state, x) -> state`` over the state without its frozen part, which then isn't copied on the way out."""

    def apart(state, frozen, argument):
        return function(state.replace(frozen=frozen), argument).replace(frozen=None)

    return apart


def _whole(apart):
    """The inverse of `_apart`, round its compiled form."""

    def whole(state, argument):
        return apart(state.replace(frozen=None), state.frozen, argument).replace(frozen=state.frozen)

    return whole


def _single(program: Program, measure) -> Distributed:
    device = jax.local_devices()[0]
    step, measured = jit_step(program.step), jax.jit(measure(program, None))

    def put(tree):
        return jax.device_put(tree, device)

    def ask(build):
        compiled = jax.jit(build(None))
        return lambda state, batch: jax.device_get(compiled(state, put(batch)))

    return Distributed(
        program=program,
        init=lambda params, key: put(program.init(params, key)),
        step=step,
        measure=measured,
        after_task=program.after_task.map(lambda after: _whole(jax.jit(_apart(after)))),
        after_eval=program.after_eval.map(lambda after: _whole(jax.jit(_apart(after)))),
        ask=ask,
        put_batch=put,
        put_whole=put,
        collect=lambda state: state,
        spread=put,
        shards=1,
        compilations=step.compilations,
        outline=Outline(step.outline, measured.eval_shape),
    )


def _pmap(program: Program, measure) -> Distributed:
    axis, devices = "data", jax.local_devices()
    count = len(devices)
    along = NamedSharding(jax.sharding.Mesh(np.array(devices), (axis,)), PartitionSpec(axis))
    traces = []

    def step(state, frozen, batch):
        traces.append(1)
        state, metrics = program.step(state.replace(frozen=frozen), batch)
        return state.replace(frozen=None), metrics

    def mapped(function, out_axes, **options):
        return jax.pmap(function, axis_name=axis, out_axes=out_axes, **options)

    step = mapped(step, (0, None), donate_argnums=0)

    def call(state, batch):
        frozen = state.frozen
        state, metrics = step(state.replace(frozen=None), frozen, batch)
        return state.replace(frozen=frozen), metrics

    def put(batch):
        def one(x):
            x = np.asarray(x)
            check_divides(x.shape[0], count)
            return jax.device_put(x.reshape(count, -1, *x.shape[1:]), along)

        return jax.tree.map(one, batch)

    def put_whole(batch):
        check_divides(len(jax.tree.leaves(batch)[0]), count * jax.process_count())
        return put(own_rows(batch))

    def spread(state):
        def one(x):
            typed = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
            row = (jax.random.key_data(x) if typed else x)[None]
            copies = [jax.device_put(row, device) for device in devices]
            whole = jax.make_array_from_single_device_arrays((count, *row.shape[1:]), along, copies)
            return jax.random.wrap_key_data(whole, impl=jax.random.key_impl(x)) if typed else whole

        return jax.tree.map(one, state)

    def collect(state):
        def one(x):
            typed = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
            copy = (jax.random.key_data(x) if typed else x).addressable_shards[0].data[0]
            return jax.random.wrap_key_data(copy, impl=jax.random.key_impl(x)) if typed else copy

        return jax.tree.map(one, state)

    def ask(build):
        compiled = mapped(build(axis), 0)

        def rows(state, batch):
            found = jax.device_get(compiled(state, put(batch)))
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)

        return rows

    def event(function):
        return _whole(mapped(_apart(function), 0, in_axes=(0, 0, None)))

    return Distributed(
        program=program,
        init=lambda params, key: spread(program.init(params, key)),
        step=call,
        measure=mapped(measure(program, axis), None),
        after_task=program.after_task.map(event),
        after_eval=program.after_eval.map(event),
        ask=ask,
        put_batch=put,
        put_whole=put_whole,
        collect=collect,
        spread=spread,
        shards=count * jax.process_count(),
        compilations=lambda: len(traces),
    )


def _mesh(program: Program, parallelism: Mesh, measure) -> Distributed:
    mesh = parallelism.build(jax.devices())
    if MEMBERS in mesh.shape and jax.process_count() > 1:
        raise ValueError("members are split over the devices of one process, and there are several; leave members at 1")
    rules = (*parallelism.rules, *RULES)
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    everywhere = NamedSharding(mesh, PartitionSpec())
    shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    places: dict[str, Any] = {}
    compiled: dict[str, Callable] = {}
    traces = []

    def place(state):
        return jax.tree.map(put_on, state, places["state"].replace(frozen=None))

    def step(state, batch):
        traces.append(1)
        return program.step(state, batch)

    def init(params, key):
        # Under jit the learned leaves, the moments and the memories are born on their own devices.
        params = jax.tree.map(put_on, params, shardings({"model": params}, mesh, rules)["model"])
        places["state"] = state_shardings(jax.eval_shape(program.init, params, key), mesh, rules)
        learned = places["state"].replace(frozen=None)
        compiled["step"] = step_on_mesh(step, mesh, places["state"])
        for field in ("after_task", "after_eval"):
            for name, after in getattr(program, field).items():
                compiled[f"{field}/{name}"] = _whole(_on_mesh(_apart(after), mesh, out_shardings=learned))
        return _on_mesh(program.init, mesh, out_shardings=places["state"])(params, put_on(key, everywhere))

    def call(state, batch):
        frozen = state.frozen
        state, metrics = compiled["step"](state.replace(frozen=None), frozen, batch)
        return state.replace(frozen=frozen), metrics

    def event(field):
        """Compiled when the state's places are known."""
        return Events(
            {
                name: lambda state, argument, key=f"{field}/{name}": compiled[key](state, argument)
                for name in getattr(program, field)
            }
        )

    def ask(build):
        compiled = _on_mesh(build(None), mesh, out_shardings=rows)
        return lambda state, batch: jax.tree.map(own_shards, compiled(state, put(batch)))

    def put(batch):
        check_divides(len(jax.tree.leaves(batch)[0]) * jax.process_count(), shards)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, np.asarray(x)), batch)

    def put_whole(batch):
        check_divides(len(jax.tree.leaves(batch)[0]), shards)
        return jax.tree.map(lambda x: put_on(np.asarray(x), rows), batch)

    return Distributed(
        program=program,
        init=init,
        step=call,
        measure=_on_mesh(measure(program, None), mesh, out_shardings=everywhere),
        after_task=event("after_task"),
        after_eval=event("after_eval"),
        ask=ask,
        put_batch=put,
        put_whole=put_whole,
        collect=lambda state: state,
        spread=place,
        shards=shards,
        compilations=lambda: len(traces),
    )


def step_on_mesh(step: Callable, mesh: jax.sharding.Mesh, places: TrainState) -> Callable:
    """``program.step`` compiled for a mesh, the state donated and its frozen part left where it is.

    Args:
      step: ``(state, batch) -> (state, metrics)``.
      mesh: of devices, which need not be here where the step is only lowered.
      places: the sharding of every leaf of the state.

    Returns:
      ``(state without its frozen part, frozen part, batch) -> (state without its frozen part, metrics)``.
    """

    def apart(state, frozen, batch):
        state, metrics = step(state.replace(frozen=frozen), batch)
        return state.replace(frozen=None), metrics

    out = (places.replace(frozen=None), NamedSharding(mesh, PartitionSpec()))
    return _on_mesh(apart, mesh, donate_argnums=0, out_shardings=out)


def _on_mesh(function: Callable, mesh: jax.sharding.Mesh, **options) -> Callable:
    """`function` by jit, traced for the mesh."""

    @functools.wraps(function)
    def traced(*arguments):
        with traced_for(mesh):
            return function(*arguments)

    return jax.jit(traced, **options)
