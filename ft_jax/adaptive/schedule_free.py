"""Training without a schedule: the model is an average that the steps themselves need."""

import jax
import jax.numpy as jnp
import optax

from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.state import Hyper


@register(
    "adaptive",
    paper="Defazio et al. 2024, 'The Road Less Scheduled', arXiv:2405.15682, equations 1 to 3 and 8",
    example=lambda problem: schedule_free(),
    neutral="its model is an average of the steps, whatever its numbers; at beta 0 they are the optimizer's own",
)
def schedule_free(beta: float = 0.9, power: float = 2.0, *, name: str = "adaptive.schedule_free") -> Method:
    """Steps from an average and evaluates it, so that the rate need not fall and training can stop at any time.

    The optimizer inside moves ``z ← z + update(gradient at y)``; the model is ``x ← (1 - c) x + c z`` with ``c = w / Σ
    w`` of the steps so far and ``w = rate ** power``; gradients are taken at ``y = (1 - beta) z + beta x``. Training
    holds y, and evaluation, saving and export use x. Give the optimizer inside a constant rate and no momentum of its
    own (AdamW with ``b1=0``), as ``beta`` takes its place.

    Args:
      beta: of the average where gradients are taken; 0 is the optimizer alone with the average beside.
      power: of the rate in the average's weights.
      name: the method's name; ``memory[name]`` is ``{"x": what learns, "total": Σ w}``.

    Raises:
      ValueError: a beta outside 0 to below 1.

    Example:
      >>> schedule_free(0.95).hyper
      {'beta': 0.95, 'power': 2.0}
    """
    if not 0 <= beta < 1:
        raise ValueError(f"{name} got beta={beta}; give a number from 0 to below 1")

    def memory(params, key):
        return {"x": jax.tree.map(jnp.copy, params), "total": jnp.float32(0)}

    def share(own, hyper: Hyper):
        """``(c, Σ w)`` of this step."""
        rate = hyper["optimizer"].get("learning_rate", jnp.float32(1.0))
        weight = rate ** hyper[name]["power"]
        total = own["total"] + weight
        return jnp.where(total > 0, weight / jnp.where(total > 0, total, 1.0), 0.0), total

    def update(inner):
        def averaged(gradients, state, params, *, event):
            own, beta = event.memory[name], event.hyper[name]["beta"]
            moves, state = inner.update(gradients, state, params, event=event)
            c, _ = share(own, event.hyper)

            def step(y, x, move):  # y' - y, which is the move alone at beta 0
                return ((1 - beta + beta * c) * move + beta * c * (y - x) / (1 - beta)).astype(y.dtype)

            return jax.tree.map(step, params, own["x"], moves), state

        return optax.GradientTransformationExtraArgs(inner.init, averaged)

    def after_step(state, event):
        own, beta = state.memory[name], state.hyper[name]["beta"]
        c, total = share(own, state.hyper)

        def follow(y, x):  # z of what the step ended with: y = (1 - beta) z + beta ((1 - c) x + c z)
            z = (y - beta * (1 - c) * x) / (1 - beta + beta * c)
            return ((1 - c) * x + c * z).astype(x.dtype)

        return state.remember(name, {"x": jax.tree.map(follow, state.params, own["x"]), "total": total})

    def settle(state):
        return state.replace(params=state.memory[name]["x"])

    return Method(
        name=name,
        hyper={"beta": beta, "power": power},
        memory=memory,
        update=update,
        after_step=after_step,
        settle=settle,
    )
