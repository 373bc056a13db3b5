"""The steps that benchmarks run, by name: a composition over a shape, ready to compile or to train."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from ft_jax import adaptive, distillation, incremental, rl, transfer
from ft_jax.core import Program, compose, jit_step, make_step, optimizer, supervised
from ft_jax.core.members import map_members
from ft_jax.core.mesh import BATCH_AXES
from ft_jax.models import Model
from ft_jax.training.parallel import step_on_mesh
from ft_jax.training.sharding import shardings

from .shapes import Shape


@dataclasses.dataclass(frozen=True)
class Step:
    """A program over a shape.

    Attributes:
      name: of the composition.
      shape: what it runs on.
      model: with parameters, or with their shapes alone.
      program: the pure functions.
      batch: a host batch.
    """

    name: str
    shape: Shape
    model: Model
    program: Program
    batch: dict[str, Any]

    def start(self) -> tuple[Callable, Any, Any]:
        """The compiled step, a state and the batch on the device."""
        given = self.model.params, jax.random.key(1)
        # What methods hold, such as a teacher, as arguments: as constants of the program XLA would carry them about.
        traced, outline = jax.make_jaxpr(self.program.init, return_shape=True)(*given)
        made = jax.jit(lambda held, *leaves: jax.core.eval_jaxpr(traced.jaxpr, held, *leaves))
        state = jax.tree.unflatten(jax.tree.structure(outline), made(traced.consts, *jax.tree.leaves(given)))
        return jit_step(self.program.step), state, jax.device_put(self.batch)

    def lowered(self, mesh: jax.sharding.Mesh | None = None) -> jax.stages.Lowered:
        """The step lowered on shapes alone, the state donated except for the frozen weights.

        Args:
          mesh: of devices that need not be here; without one, jax's default device.
        """
        state, batch = jax.eval_shape(self.program.init, self.model.params, jax.random.key(1)), self.batch
        if mesh is None:
            step = jax.jit(self._apart, donate_argnums=0)
        else:
            places, rows = shardings(state, mesh), NamedSharding(mesh, PartitionSpec(BATCH_AXES))
            step = step_on_mesh(self.program.step, mesh, places)
            state = jax.tree.map(_at, state, places)
            batch = jax.tree.map(lambda array: _at(array, rows), batch)
        return step.lower(state.replace(frozen=None), state.frozen, batch)

    def compiled(self, mesh: jax.sharding.Mesh | None = None):
        """``(compiled, lowered, {"trace_seconds", "compile_seconds"})`` of `lowered`."""
        begin = time.perf_counter()
        lowered = self.lowered(mesh)
        traced = time.perf_counter()
        compiled = lowered.compile()
        return compiled, lowered, {"trace_seconds": traced - begin, "compile_seconds": time.perf_counter() - traced}

    def _apart(self, state, frozen, batch):
        state, metrics = self.program.step(state.replace(frozen=frozen), batch)
        return state.replace(frozen=None), metrics

    @property
    def tokens(self) -> int:
        """Real tokens of a step."""
        return int(np.size(self.batch["input_ids"] if "input_ids" in self.batch else self.batch["chosen"]["input_ids"]))


def _lora(model, rank, forward):
    return transfer.lora(rank=rank, alpha=2.0 * rank, forward=forward, also=_head(model))


def _head(model) -> tuple[str, ...]:
    """A classifier's new head learns beside the adapters."""
    return ("*/head/*",) if model.apply.pooling is not None else ()


METHODS: dict[str, Callable] = {
    "full": lambda model, rank, forward: transfer.full(),
    "lora": _lora,
    "qlora": lambda model, rank, forward: compose(_lora(model, rank, forward), transfer.quantize()),
    "dora": lambda model, rank, forward: transfer.dora(rank=rank, alpha=2.0 * rank, also=_head(model)),
    "distillation": lambda model, rank, forward: compose(
        distillation.logits(model.apply, model.params), _lora(model, rank, forward)
    ),
    "full+distillation": lambda model, rank, forward: compose(
        distillation.logits(model.apply, model.params), transfer.full()
    ),
    "soft": lambda model, rank, forward: compose(
        distillation.logits(model.apply, model.params, hard_weight=None), _lora(model, rank, forward)
    ),
    "dpo": lambda model, rank, forward: compose(rl.dpo(), _lora(model, rank, forward)),
    "ewc": lambda model, rank, forward: compose(incremental.ewc(), _lora(model, rank, forward)),
    "uncertainty": lambda model, rank, forward: compose(adaptive.uncertainty(("task",)), _lora(model, rank, forward)),
    "composed": lambda model, rank, forward: compose(
        adaptive.uncertainty(("task", "distillation.logits")),
        incremental.ewc(),
        distillation.logits(model.apply, model.params),
        _lora(model, rank, forward),
    ),
}
"""``(model, rank, forward of LoRA) -> method`` by name; ``"soft"`` is distillation without the task's own loss."""


def build(
    name: str,
    shape: Shape,
    *,
    rank: int = 16,
    forward: str = "auto",
    members: int = 0,
    chunk: int | None = None,
    abstract: bool = False,
) -> Step:
    """A composition over a shape.

    Args:
      name: one of `METHODS`.
      shape: of model and batch.
      rank, forward: of LoRA.
      members: so many in one program; 0 for a plain step.
      chunk: time steps whose logits are held at once; None for what suits the device.
      abstract: parameters as shapes alone, to compile and not to run.

    Raises:
      ValueError: on an unknown name.
    """
    if name not in METHODS:
        raise ValueError(f"there is no step {name!r}; use one of {', '.join(METHODS)}")
    model = shape.model(None if abstract else jax.random.key(0))
    method = METHODS[name](model, rank, forward)
    tuned = optimizer(optax.adamw, learning_rate=1e-4, weight_decay=0.0)
    program = make_step(supervised(model.apply, chunk=chunk), tuned, method)
    batch: dict[str, Any] = shape.examples()
    if name == "dpo":
        other = shape.examples(seed=1)
        sides = {"chosen": batch, "rejected": other}
        batch = {
            side: {**fields, "weights": np.ones(fields["labels"].shape, np.float32)} for side, fields in sides.items()
        }
    return Step(name, shape, model, map_members(program, members) if members else program, batch)


def _at(leaf, sharding):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
