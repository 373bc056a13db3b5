"""The one train state every method shares, and what a loss or an event gets to see."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.batches import Batch, rows
from ft_jax.core.outputs import Outputs
from ft_jax.core.params import Params, combine, digest, map_with_path, nearest, path_of

Hyper = Mapping[str, Mapping[str, jax.Array]]


def pytree(*static: str):
    """Class decorator: a frozen dataclass registered as a pytree, with a `replace` method."""

    def decorate(cls):
        cls.replace = dataclasses.replace
        cls = dataclasses.dataclass(frozen=True)(cls)
        data = [field.name for field in dataclasses.fields(cls) if field.name not in static]
        return jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=list(static))

    return decorate


@pytree()
class TrainState:
    """Everything that changes while training, and the frozen weights it stands on.

    Attributes:
      step: how many updates were made, int32.
      params: the tree that learns: ``{"model": ..., method name: ...}``, None where a leaf is frozen.
      frozen: the rest of that tree, with the same outline.
      opt_state: the optimizer's.
      memory: what each method remembers, by its name.
      hyper: each method's numbers, ``hyper[name][number]``, float32 scalars. Change them between steps at
        will: one compiled step serves all values.
      key: the run's random key; step ``n`` uses ``fold_in(key, n)``.
    """

    step: jax.Array
    params: Params
    frozen: Params
    opt_state: Any
    memory: Mapping[str, Any]
    hyper: Hyper
    key: jax.Array

    def with_hyper(self, changes: Mapping[str, Any]) -> "TrainState":
        """The state with numbers changed, named ``"method.number"``: ``{"optimizer.learning_rate": 1e-3}``.

        Raises:
          KeyError: on a number that isn't there, with the nearest ones.
        """
        hyper = {name: dict(numbers) for name, numbers in self.hyper.items()}
        for full, value in changes.items():
            name, _, number = full.rpartition(".")
            if number not in hyper.get(name, {}):
                known = [f"{a}.{b}" for a, numbers in self.hyper.items() for b in numbers]
                raise KeyError(f"hyper has no number {full!r}; the nearest are {nearest(full, known)}")
            old = hyper[name][number]
            hyper[name][number] = jnp.broadcast_to(jnp.asarray(value, old.dtype), old.shape)
        return self.replace(hyper=hyper)

    def remember(self, name: str, value: Any) -> "TrainState":
        """The state with ``memory[name]`` replaced."""
        return self.replace(memory={**self.memory, name: value})


@dataclasses.dataclass(frozen=True)
class Ungathered:
    """A coupled loss that talks to the other devices by itself, such as around a ring, see `Context.couple`.

    Attributes:
      function: ``(rows, shared, aligned, axis) -> scalar``, or a tree of scalars, of this device's rows; `axis` is the
        mapped device axis or None. The mean over the devices is the value of the whole batch.
    """

    function: Callable


def direct(function: Callable, rows: Any, shared: Any, aligned: Any, axis: str | None) -> Any:
    """A coupled loss over the rows that are here and those of the other devices, see `Context.couple`."""
    if isinstance(function, Ungathered):
        return function.function(rows, shared, aligned, axis)
    everyone, all_aligned, start = rows, aligned, 0
    if axis is not None:
        everyone, all_aligned = jax.lax.all_gather((rows, aligned), axis, tiled=True)
        start = jax.lax.axis_index(axis) * jax.tree.leaves(rows)[0].shape[0]
    return function(rows, everyone, start, shared, aligned, all_aligned)


@pytree("train", "axis", "view", "network", "collects", "coupling")
class Context:
    """What a loss sees besides the parameters that learn and the batch.

    Attributes:
      frozen: the frozen part of the parameters.
      memory: what methods remember.
      hyper: their numbers.
      key: this step's key, the same for every micro-batch and device (for sampling that must agree).
      local_key: this micro-batch's and device's own key (for dropout).
      step: the number of the step.
      train: False while evaluating.
      axis: the name of the mapped device axis under pmap, or None.
      view: how the composition's methods show the parameters to the model, see `Method.view`.
      network: how its methods wrap the forward pass, see `Method.forward`.
      collects: states that its methods want among the outputs, see `Method.collects`.
      coupling: how losses that compare examples see those of other shards, see `couple`.
    """

    frozen: Params
    memory: Mapping[str, Any]
    hyper: Hyper
    key: jax.Array
    local_key: jax.Array
    step: jax.Array
    train: bool
    axis: str | None
    view: Callable[[Params, "Context"], Params]
    network: Callable = lambda forward: forward
    collects: tuple[str, ...] = ()
    coupling: Callable = direct

    def join(self, params: Params) -> Params:
        """The whole parameter tree as models see it: `params` with the frozen part, through every view."""
        return self.view(combine(params, self.frozen), self)

    def run(self, apply: Callable, params: Params, batch: Batch) -> Outputs:
        """The model's outputs: the one way to a forward pass, which every method's `Method.forward` wraps.

        Args:
          apply: ``(model's parameters, batch, key) -> Outputs``. Where it has a method ``collecting(names)``, that
            gives the network whose outputs have the states in `collects`.
          params: the tree that learns.
          batch: of examples.
        """
        if self.collects and hasattr(apply, "collecting"):
            apply = apply.collecting(self.collects)

        def network(params, batch, context):
            return apply(context.join(params)["model"], batch, context.dropout_key)

        return self.network(network)(params, batch, self)

    def couple(self, function: Callable, rows: Any, shared: Any = (), aligned: Any = ()) -> Any:
        """The value of a loss that compares the examples of a batch, over all devices and micro-batches.

        Args:
          function: ``(own, everyone, start, shared, own_aligned, all_aligned) -> scalar``, or a tree of scalars: this
            device's rows against those of all devices, whose row ``start`` is the first of `own`. The mean over the
            devices is the value of the whole batch. Or `Ungathered`, for a loss that needs no gather. One whose rows
            are numbers of classes, and no vectors of a space, has the attribute ``of_classes``.
          rows: differentiated arrays ``[batch, ...]``, such as embeddings.
          shared: differentiated and the same for all rows, such as a temperature.
          aligned: arrays ``[batch, ...]`` that are not differentiated, such as labels or shares.
        """
        return self.coupling(function, rows, shared, jax.lax.stop_gradient(aligned), self.axis)

    def key_for(self, name: str) -> jax.Array:
        """A key of the step for one purpose, from the stable digest of its name."""
        return jax.random.fold_in(self.key, digest(name))

    def keys_for(self, name: str, batch: Batch) -> jax.Array:
        """A key for each row of a batch that was not cut into micro-batches, ``[batch]``: see `rows`."""
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(self.key_for(name), self.rows(batch))

    def rows(self, batch: Batch) -> jax.Array:
        """The index ``[batch]`` of each of this device's rows in the whole batch, for `Method.prepare`."""
        own = jnp.arange(rows(batch))
        return own if self.axis is None else own + len(own) * jax.lax.axis_index(self.axis)

    def drawing(self, name: str) -> "Context":
        """The context of another forward pass in the same step, with dropout of its own."""
        return self.replace(local_key=jax.random.fold_in(self.local_key, digest(name)))

    @property
    def dropout_key(self) -> jax.Array | None:
        """The key a model's ``apply`` takes: None while evaluating, which turns dropout off."""
        return jax.random.fold_in(self.local_key, digest("dropout")) if self.train else None


@pytree()
class StepEvent:
    """What just happened in a step, for `Method.after_step`.

    Attributes:
      batch: the whole batch, of all devices and micro-batches.
      terms: the loss's terms.
      gradients: of the sum of the terms, before the optimizer.
      updates: what was added to the parameters.
      predictions: what ``predict`` made of the outputs, for the examples of `batch`.
      key: this step's key.
    """

    batch: Batch
    terms: Mapping[str, jax.Array]
    gradients: Params
    updates: Params
    predictions: Any
    key: jax.Array


@dataclasses.dataclass(frozen=True)
class UpdateEvent:
    """What an optimizer sees besides the gradients, for `Method.update`.

    Attributes:
      hyper, memory, step: of the state.
      key: this step's key.
      batch: this device's part of the batch, prepared.
      terms: the loss's terms, over all micro-batches and devices.
      value: their sum.
      gradient: ``(batch=None, *, params=None, terms=None, by_term=False)``, the gradient of the terms (of those that
        are named) for this batch or another, at these or other parameters, averaged over micro-batches and devices;
        by term a dict of trees. A batch that does not divide into micro-batches is taken as one.
      value_at: ``params -> scalar``, the sum of the terms for this batch.
    """

    hyper: Hyper
    memory: Mapping[str, Any]
    step: jax.Array
    key: jax.Array
    batch: Batch
    terms: Mapping[str, jax.Array]
    value: jax.Array
    gradient: Callable[..., Any]
    value_at: Callable[[Params], jax.Array]


@pytree("loss")
class TaskEvent:
    """A task, domain or experience has ended, for `Method.after_task`.

    Attributes:
      batches: examples of it, fields ``[count, batch, ...]``; ``program.after_task`` takes a list of batches too.
      context: as a loss sees it.
      loss: the plain loss of the task, without any method's additions.
    """

    batches: Batch
    context: Context
    loss: Callable


@pytree()
class EvalEvent:
    """An evaluation has ended, for `Method.after_eval`: its metrics by name."""

    metrics: Mapping[str, jax.Array]


def transition(old: TrainState, new: TrainState) -> TrainState:
    """`new` with everything that stays taken from `old`: the way from a state of one shape to the next.

    Parameters, moments, memories and numbers go by their paths. An array that grew, such as a head's with more classes,
    keeps the old one in its leading corner; what is not in `old` stays as `new` has it, and so does an array that
    shrank in some axis. The step's number and the run's key are those of `old`.

    Args:
      old: of the program so far.
      new: fresh, of the program to go on with.

    Example:
      >>> def state(size):
      ...     params = {"head": jnp.full(size, float(size))}
      ...     return TrainState(jnp.int32(size), params, {"head": None}, (), {}, {}, jax.random.key(0))
      >>> transition(state(2), state(3)).params["head"].tolist()
      [2.0, 2.0, 3.0]
    """

    def carried(part):
        had = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(getattr(old, part))}
        return map_with_path(lambda path, leaf: _grown(had.get(path), leaf), getattr(new, part))

    parts = {part: carried(part) for part in ("params", "frozen", "opt_state", "memory", "hyper")}
    return new.replace(step=old.step, key=old.key, **parts)


def _grown(old, new):
    if old is None or jnp.ndim(old) != jnp.ndim(new) or old.dtype != new.dtype:
        return new
    if any(before > now for before, now in zip(old.shape, new.shape, strict=True)):
        return new
    return old if old.shape == new.shape else new.at[tuple(slice(size) for size in old.shape)].set(old)
