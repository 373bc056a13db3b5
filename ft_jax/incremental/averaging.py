"""The mean of the models that the tasks ended with."""

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method


@register(
    "incremental",
    paper="Wortsman et al. 2022, arXiv:2109.01903; Marouf et al. 2024, arXiv:2312.08977 (averaging over tasks)",
    example=lambda problem: averaging(),
    neutral=Neutral({}),
)
def averaging(share: float = 0.0, *, name: str = "incremental.averaging") -> Method:
    """Evaluates and saves the mean of what the tasks ended with; training goes on from the last.

    When task t (from 1) ends, ``mean ← mean + a (params - mean)`` with ``a = share``, or ``1 / t`` where share is 0: a
    plain mean over all tasks. Until one has ended, evaluations see the parameters themselves.

    Args:
      share: of the new task in the mean, from the second on; 0.5 is halfway, as WiSE-FT.
      name: the method's name; ``memory[name]`` is ``{"mean": what learns, "tasks": int32}``.

    Raises:
      ValueError: a share outside 0 to 1.

    Example:
      >>> averaging(0.5).hyper
      {'share': 0.5}
    """
    if not 0 <= share <= 1:
        raise ValueError(f"{name} got share={share}; give a share from 0 to 1")

    def memory(params, key):
        mean = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32)), params)
        return {"mean": mean, "tasks": jnp.int32(0)}

    def after_task(state, event):
        own, share = state.memory[name], state.hyper[name]["share"]
        tasks = own["tasks"] + 1
        part = jnp.where((share > 0) & (tasks > 1), share, 1 / tasks)
        mean = jax.tree.map(lambda m, p: m + part * (p.astype(m.dtype) - m), own["mean"], state.params)
        return state.remember(name, {"mean": mean, "tasks": tasks})

    def settle(state):
        own = state.memory[name]
        params = jax.tree.map(lambda m, p: jnp.where(own["tasks"] > 0, m.astype(p.dtype), p), own["mean"], state.params)
        return state.replace(params=params)

    return Method(name=name, hyper={"share": share}, memory=memory, after_task=after_task, settle=settle)
