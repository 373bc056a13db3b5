"""A number lowered when a metric stops improving."""

import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method


@register(
    "adaptive",
    paper="He et al. 2016, arXiv:1512.03385, section 3.4 (the rate is divided when the error plateaus)",
    example=lambda problem: plateau(),
    neutral=Neutral({"factor": 1.0}),
)
def plateau(
    metric: str = "loss",
    mode: str = "min",
    number: str = "optimizer.learning_rate",
    factor: float = 0.5,
    patience: int = 2,
    threshold: float = 1e-4,
    cooldown: int = 0,
    minimum: float = 0.0,
    *,
    name: str = "adaptive.plateau",
) -> Method:
    """Multiplies a number of the composition by `factor` when a metric has not improved for a while.

    After each evaluation: a metric better than the best one by more than ``threshold`` of it resets the
    count of bad evaluations, another one raises it. Past `patience` bad ones, ``number ← max(minimum,
    factor · number)``, the count starts again, and the next `cooldown` evaluations are not counted. The
    number is data in the state, so nothing compiles again. Same rule as torch's ``ReduceLROnPlateau``.

    Args:
      metric: the evaluation metric to watch.
      mode: ``"min"`` if lower is better, ``"max"`` if higher.
      number: what to change, as ``"method.number"``.
      factor: what it is multiplied by; 1 changes nothing.
      patience: bad evaluations that are borne.
      threshold: the relative improvement that counts.
      cooldown: evaluations after a change that are not counted.
      minimum: the number's lower bound.
      name: the method's name.

    Raises:
      ValueError: an unknown mode.
      KeyError: at the first evaluation, when it has no such metric or the composition no such number.

    Example:
      >>> plateau("accuracy", mode="max", factor=0.1).hyper["factor"]
      0.1
    """
    if mode not in ("min", "max"):
        raise ValueError(f"{name} got mode {mode!r}; use 'min' or 'max'")
    sign = 1.0 if mode == "min" else -1.0

    def memory(params, key):
        return {"best": jnp.float32(sign * jnp.inf), "bad": jnp.float32(0), "cooling": jnp.float32(0)}

    def after_eval(state, event):
        if metric not in event.metrics:
            raise KeyError(f"{name} watches metric {metric!r}, but the evaluation gave {', '.join(event.metrics)}")
        owner, _, label = number.rpartition(".")
        old, own, rule = state.memory[name], state.hyper.get(owner, {}).get(label), state.hyper[name]
        value = jnp.asarray(event.metrics[metric], jnp.float32)
        margin = 1.0 - sign * rule["threshold"]
        better = sign * value < sign * old["best"] * margin
        cooling = jnp.maximum(old["cooling"] - 1, 0)
        bad = jnp.where(better | (old["cooling"] > 0), 0.0, old["bad"] + 1)
        act = bad > rule["patience"]
        new = {
            "best": jnp.where(better, value, old["best"]),
            "bad": jnp.where(act, 0.0, bad),
            "cooling": jnp.where(act, rule["cooldown"], cooling),
        }
        state = state.remember(name, new)
        changed = None if own is None else jnp.where(act, jnp.maximum(rule["minimum"], own * rule["factor"]), own)
        return state.with_hyper({number: changed})

    hyper = {
        "factor": factor,
        "patience": patience,
        "threshold": threshold,
        "cooldown": cooldown,
        "minimum": minimum,
    }
    return Method(name=name, hyper=hyper, memory=memory, after_eval=after_eval)
