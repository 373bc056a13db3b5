"""Optimizers whose numbers are data, and wrappers that scale parts of an update."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ft_jax.core.state import UpdateEvent


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer and the numbers it reads from ``hyper["optimizer"]``.

    Attributes:
      transform: its update takes an `ft_jax.core.state.UpdateEvent` as the extra argument ``event``.
      hyper: its numbers.
      report: ``(its numbers, step) -> metrics``, such as the learning rate that a step used.
    """

    transform: optax.GradientTransformationExtraArgs
    hyper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    report: Callable[[Mapping[str, jax.Array], jax.Array], Mapping[str, jax.Array]] = lambda numbers, step: {}


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

    def used(values, step):
        rate = values["learning_rate"]
        return rate if schedule is None else rate * schedule(step)

    def chain(values, step):
        values = dict(values)
        clip = optax.identity() if max_norm is None else optax.clip_by_global_norm(values.pop("max_norm"))
        if schedule is not None:
            values["learning_rate"] = used(values, step)
        return optax.chain(clip, taking_events(build(**values), HIDDEN.get(getattr(build, "func", build), ())))

    def init(params):
        return chain(hyper, 0).init(params)

    def update(gradients, state, params=None, *, event):
        return chain(event.hyper["optimizer"], event.step).update(gradients, state, params, event=event)

    def report(values, step):
        return {"learning_rate": used(values, step)} if "learning_rate" in values else {}

    return Optimizer(optax.GradientTransformationExtraArgs(init, update), hyper, report)


HIDDEN = {optax.contrib.sophia: ("obj_fn",)}
"""Arguments that a constructor's transformation takes and its chain does not name."""


def taking_events(
    inner: optax.GradientTransformation, hidden: tuple[str, ...] = ()
) -> optax.GradientTransformationExtraArgs:
    """A transformation of optax as the step calls it, with those of its extra arguments that it takes.

    ``value``, ``grad``, ``value_fn`` (line searches, MoMo, Polyak), ``grad_fn`` (SAM) and ``obj_fn`` (Sophia) come
    from the event, so that they are the whole batch's. `hidden` are some that it takes without naming them.
    """
    named = inspect.signature(inner.update).parameters
    anything = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in named.values())
    extended = isinstance(inner, optax.GradientTransformationExtraArgs)

    def update(gradients, state, params=None, *, event):
        common = {"value": event.value, "grad": gradients, "value_fn": event.value_at}
        # A line search refuses arguments that neither it nor its function knows.
        rare = {"grad_fn": lambda params, _=None: event.gradient(params=params), "obj_fn": event.value_at}
        taken = {
            name: x for name, x in (common | rare).items() if name in (*named, *hidden) or (anything and name in common)
        }
        return inner.update(gradients, state, params, **(taken if extended else {}))

    return optax.GradientTransformationExtraArgs(inner.init, update)


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
    inner: optax.GradientTransformationExtraArgs, factors: Callable[[Any, UpdateEvent], Any]
) -> optax.GradientTransformationExtraArgs:
    """`inner` with every update multiplied by its factor.

    Args:
      inner: an optimizer.
      factors: ``(updates, event) -> factors``, a tree of the updates' outline.
    """

    def update(gradients, state, params=None, *, event):
        updates, state = inner.update(gradients, state, params, event=event)
        scaled = jax.tree.map(lambda u, factor: u * jnp.asarray(factor, u.dtype), updates, factors(updates, event))
        return scaled, state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def as_optimizer(value: Optimizer | optax.GradientTransformation) -> Optimizer:
    """Plain optax transformations are optimizers without numbers in the state."""
    return value if isinstance(value, Optimizer) else Optimizer(taking_events(value))


def numbers(values: Mapping[str, float]) -> dict[str, jax.Array]:
    """Python numbers as float32 scalars of the state."""
    return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
