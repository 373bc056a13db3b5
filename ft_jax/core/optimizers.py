"""Optimizers whose numbers are data, and wrappers that scale parts of an update."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optax transformation and the numbers it reads from ``hyper["optimizer"]``."""

    transform: optax.GradientTransformationExtraArgs
    hyper: Mapping[str, float] = dataclasses.field(default_factory=dict)


def optimizer(
    build: Callable[..., optax.GradientTransformation] = optax.adamw,
    *,
    schedule: Callable[[jax.Array], jax.Array] | None = None,
    max_norm: float | None = None,
    **numbers: float,
) -> Optimizer:
    """Any optax optimizer with its numbers in ``state.hyper["optimizer"]``.

    The optimizer is rebuilt from the numbers inside the step, as `optax.inject_hyperparams` does, so a
    population can give each member its own and a controller can change them without compiling again.

    Args:
      build: an optax constructor such as `optax.adamw`.
      schedule: ``step -> factor`` of the learning rate; the rate itself is the peak.
      max_norm: gradients are scaled down to this global norm first. Members of a lifted step each have
        their own norm.
      **numbers: keyword arguments of `build`: ``learning_rate=1e-3, weight_decay=0.01``.

    Raises:
      ValueError: a schedule without a ``learning_rate``.

    Example:
      >>> dict(optimizer(optax.sgd, learning_rate=0.1).hyper)
      {'learning_rate': 0.1}
    """
    if schedule is not None and "learning_rate" not in numbers:
        raise ValueError(
            f"a schedule scales learning_rate, which {build.__name__} was not given; pass learning_rate=..."
        )
    hyper = dict(numbers) if max_norm is None else {**numbers, "max_norm": max_norm}

    def chain(values, step):
        values = dict(values)
        clip = optax.identity() if max_norm is None else optax.clip_by_global_norm(values.pop("max_norm"))
        if schedule is not None:
            values["learning_rate"] = values["learning_rate"] * schedule(step)
        return optax.with_extra_args_support(optax.chain(clip, build(**values)))

    def init(params):
        return chain(hyper, 0).init(params)

    def update(gradients, state, params=None, *, hyper, step, **extra):
        return chain(hyper["optimizer"], step).update(gradients, state, params, **extra)

    return Optimizer(optax.GradientTransformationExtraArgs(init, update), hyper)


def warmup_then_decay(steps: int, warmup: float = 0.1, final: float = 0.0) -> Callable[[jax.Array], jax.Array]:
    """A learning-rate factor: linear from 0 to 1 over ``warmup · steps``, then linear to `final` at `steps`."""
    rise = max(1, round(warmup * steps))
    return optax.join_schedules(
        [
            optax.linear_schedule(1.0 / rise, 1.0, max(rise - 1, 1)),
            optax.linear_schedule(1.0, final, max(steps - rise, 1)),
        ],
        [rise],
    )


def scale_updates(
    inner: optax.GradientTransformationExtraArgs, factors: Callable[[Any, Mapping[str, Any]], Any]
) -> optax.GradientTransformationExtraArgs:
    """`inner` with every update multiplied by its factor.

    Args:
      inner: an optimizer.
      factors: ``(updates, the update's extra arguments) -> factors``, a tree of the updates' outline.
    """

    def update(gradients, state, params=None, **extra):
        updates, state = inner.update(gradients, state, params, **extra)
        scaled = jax.tree.map(lambda u, factor: u * jnp.asarray(factor, u.dtype), updates, factors(updates, extra))
        return scaled, state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def as_optimizer(value: Optimizer | optax.GradientTransformation) -> Optimizer:
    """Plain optax transformations are optimizers without numbers in the state."""
    if isinstance(value, Optimizer):
        return value
    inner = optax.with_extra_args_support(value)

    def update(gradients, state, params=None, *, hyper, memory, step, gradient, **extra):
        return inner.update(gradients, state, params, **extra)

    return Optimizer(optax.GradientTransformationExtraArgs(inner.init, update))


def numbers(values: Mapping[str, float]) -> dict[str, jax.Array]:
    """Python numbers as float32 scalars of the state."""
    return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
