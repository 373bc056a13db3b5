"""The one train state every method shares, and what a loss or an event gets to see."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ft_jax.core.params import Params, combine, digest, nearest

Batch = Mapping[str, Any]
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


@pytree("train", "axis", "view")
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

    def join(self, params: Params) -> Params:
        """The whole parameter tree as models see it: `params` with the frozen part, through every view."""
        return self.view(combine(params, self.frozen), self)

    def key_for(self, name: str) -> jax.Array:
        """A key of the step for one purpose, from the stable digest of its name."""
        return jax.random.fold_in(self.key, digest(name))

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


@pytree("loss")
class TaskEvent:
    """A task, domain or experience has ended, for `Method.after_task`.

    Attributes:
      batches: examples of it, fields ``[count, batch, ...]``.
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
