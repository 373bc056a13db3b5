"""Back to the learning where an evaluation falls short: numbers move, and a bad turn is undone."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import nearest


@register(
    "rl",
    paper="a rule over evaluations, after Schulman et al. 2017, arXiv:1707.06347, section 4 (adaptive penalty)",
    example=lambda problem: adjust("loss", 0.0, {"optimizer.learning_rate": 0.5}, mode="min"),
    neutral="it does nothing in a step: only evaluations move numbers, and a run without them is the plain one",
)
def adjust(
    metric: str,
    target: float,
    factors: Mapping[str, float],
    *,
    patience: int = 1,
    worse: float | None = None,
    mode: str = "max",
    name: str = "rl.adjust",
) -> Method:
    """Multiplies numbers of other methods when evaluations fall short of a target, and goes back when they worsen.

    After an evaluation whose `metric` is short of `target`, and no better than the best for `patience` evaluations,
    every number of `factors` is multiplied by its factor: a rate down, the weight of the entropy or of the divergence
    up, the level of a curriculum on. Where the metric is worse than the best by more than `worse`, the parameters
    become those of the best evaluation and the optimizer begins anew. Both are lines of the run's log with this method
    as their cause: the numbers ``adjusted`` and ``went_back`` count them.

    Args:
      metric: as evaluations name it: a metric of the watched set, or ``"set/metric"``.
      target: at which nothing is adjusted any more.
      factors: by number, ``"method.number"``, such as ``{"optimizer.learning_rate": 0.5, "rl.grpo.kl": 2.0}``.
      patience: evaluations that fall short without a new best before something is adjusted.
      worse: how far below the best the metric may fall; None never goes back and keeps no copy of the parameters.
      mode: ``"max"`` if more is better, ``"min"`` if less.
      name: the method's name.

    Raises:
      ValueError: another mode, a patience below 1, or nothing to adjust.
      KeyError: an evaluation without the metric, or a number that is not there.

    Example:
      >>> adjust("reward", 0.9, {"optimizer.learning_rate": 0.5}, worse=0.1).hyper["target"]
      0.9
    """
    if mode not in ("max", "min"):
        raise ValueError(f"{name} has mode={mode!r}; use 'max' or 'min'")
    if patience < 1:
        raise ValueError(f"{name} has patience={patience}; give at least 1 evaluation")
    if not factors and worse is None:
        raise ValueError(f"{name} has no factors and worse=None, so it would do nothing; give one of them")
    sign = 1.0 if mode == "max" else -1.0

    def memory(params, key):
        kept = {"best": jnp.float32(-jnp.inf), "short": jnp.int32(0)}
        return kept | ({} if worse is None else {"params": jax.tree.map(jnp.copy, params)})

    def after_eval(state, event):
        if metric not in event.metrics:
            raise KeyError(f"{name} watches {metric!r}; the nearest metrics are {nearest(metric, event.metrics)}")
        value, had, numbers = sign * event.metrics[metric], state.memory[name], state.hyper[name]
        # An evaluation that is no number falls short.
        value = jnp.where(jnp.isnan(value), -jnp.inf, value)
        better = value > had["best"]
        reached = value >= sign * numbers["target"]
        short = jnp.where(better | reached, 0, had["short"] + 1)
        acts = short >= patience
        kept = {"best": jnp.maximum(value, had["best"]), "short": jnp.where(acts, 0, short)}
        changes = {number: jnp.where(acts, factor, 1.0) * _number(state, number) for number, factor in factors.items()}
        changes[f"{name}.adjusted"] = numbers["adjusted"] + acts
        if worse is not None:
            back = value < had["best"] - numbers["worse"]
            changes[f"{name}.went_back"] = numbers["went_back"] + back
            kept["params"] = _either(better, state.params, had["params"])
            # The moments of a bad turn would go on turning.
            moments = jax.tree.map(lambda x: jnp.where(back, jnp.zeros_like(x), x), state.opt_state)
            state = state.replace(params=_either(back, had["params"], state.params), opt_state=moments)
        return state.with_hyper(changes).remember(name, kept)

    hyper = {"target": target, "adjusted": 0.0}
    hyper |= {} if worse is None else {"worse": worse, "went_back": 0.0}
    return Method(name=name, hyper=hyper, memory=memory, after_eval=after_eval)


def _either(which, one, other):
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), one, other)


def _number(state, full):
    owner, _, number = full.rpartition(".")
    if number not in state.hyper.get(owner, {}):
        known = [f"{a}.{b}" for a, numbers in state.hyper.items() for b in numbers]
        raise KeyError(f"hyper has no number {full!r}; the nearest are {nearest(full, known)}")
    return state.hyper[owner][number]
