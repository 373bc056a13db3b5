"""Back to the best parameters when a metric has been worse for a while."""

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method


@register(
    "adaptive",
    paper="Prechelt 1998, Early Stopping, But When? (the parameters of the lowest error; training goes on)",
    example=lambda problem: recovery(),
    neutral=Neutral({"patience": 1e9}),
)
def recovery(
    metric: str = "loss",
    mode: str = "min",
    number: str = "optimizer.learning_rate",
    factor: float = 0.5,
    patience: int = 2,
    minimum: float = 0.0,
    *,
    name: str = "adaptive.recovery",
) -> Method:
    """Takes the parameters that a metric liked best when it has been worse for more than `patience` evaluations.

    After each evaluation: a metric better than the best one keeps a copy of what learns; past `patience` others that
    copy takes the place of the parameters, ``number ← max(minimum, factor · number)``, and the count starts again. So a
    run that diverges or learns its examples by heart goes on from where it was best with another number: a lower rate,
    a higher weight decay (`factor` above 1), a smaller share of what learns. A metric that is not finite counts as
    worse. Moments and memories stay as they are, and nothing compiles again; in memory it is one more copy of what
    learns. The best metric is one of the whole run, so of tasks in turn watch a set that all have.

    Args:
      metric: the evaluation metric to watch, best one of examples that are not learned from.
      mode: ``"min"`` if lower is better, ``"max"`` if higher.
      number: what to change, as ``"method.number"``.
      factor: what it is multiplied by; 1 leaves it.
      patience: evaluations that are worse and borne.
      minimum: the number's lower bound.
      name: the method's name; ``memory[name]`` is ``{"params": a copy of what learns, "best", "bad"}``.

    Raises:
      ValueError: an unknown mode; composed with a method that serves other parameters than it trains, such as averages.
      KeyError: at the first evaluation, when it has no such metric or the composition no such number.

    Example:
      >>> recovery("accuracy", mode="max", number="optimizer.weight_decay", factor=10.0).hyper["factor"]
      10.0
    """
    if mode not in ("min", "max"):
        raise ValueError(f"{name} got mode {mode!r}; use 'min' or 'max'")
    sign = 1.0 if mode == "min" else -1.0

    def memory(params, key):
        kept = jax.tree.map(jnp.copy, params)
        return {"params": kept, "best": jnp.float32(sign * jnp.inf), "bad": jnp.float32(0)}

    def after_eval(state, event):
        if metric not in event.metrics:
            raise KeyError(f"{name} watches metric {metric!r}, but the evaluation gave {', '.join(event.metrics)}")
        owner, _, label = number.rpartition(".")
        old, own, rule = state.memory[name], state.hyper.get(owner, {}).get(label), state.hyper[name]
        value = jnp.asarray(event.metrics[metric], jnp.float32)
        better = sign * value < sign * old["best"]
        bad = jnp.where(better, 0.0, old["bad"] + 1)
        act = bad > rule["patience"]
        kept = jax.tree.map(lambda now, before: jnp.where(better, now, before), state.params, old["params"])
        new = {"params": kept, "best": jnp.where(better, value, old["best"]), "bad": jnp.where(act, 0.0, bad)}
        changed = None if own is None else jnp.where(act, jnp.maximum(rule["minimum"], own * rule["factor"]), own)
        params = jax.tree.map(lambda now, best: jnp.where(act, best, now), state.params, kept)
        return state.replace(params=params).remember(name, new).with_hyper({number: changed})

    def refuses(parts):
        averaging = next((part.name for part in parts if part.settle is not None), None)
        if averaging is None:
            return None
        return (
            f"{averaging} serves other parameters than those that learn, and {name} would go back with these alone; "
            "leave one of them out"
        )

    hyper = {"factor": factor, "patience": patience, "minimum": minimum}
    return Method(name=name, hyper=hyper, memory=memory, after_eval=after_eval, refuses=refuses)
