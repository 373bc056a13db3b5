"""Sharpness-aware minimisation: the gradient from where the loss nearby is worst."""

import dataclasses

import jax.numpy as jnp
import optax

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method


@register(
    "adaptive",
    paper="Foret et al. 2021, arXiv:2010.01412, equations 2 and 3",
    example=lambda problem: sam(0.05),
    neutral=Neutral({"radius": 0.0}),
)
def sam(radius: float = 0.05, *, name: str = "adaptive.sam") -> Method:
    """Steps by the gradient at ``θ + radius · g / |g|``, the worst place nearby to first order, to end in flat minima.

    The norm is of all that learns, over all micro-batches and devices. A step takes two gradients. Methods named after
    it see the gradients at that place.

    Args:
      radius: ρ, in parameters' units; 0 is the plain step at twice its cost.
      name: the method's name.

    Raises:
      ValueError: a radius below 0.

    Example:
      >>> sam(0.1).hyper
      {'radius': 0.1}
    """
    if not radius >= 0:
        raise ValueError(f"{name} got radius={radius}; give a number of at least 0")

    def update(inner):
        def sharp(gradients, state, params=None, *, event):
            norm = optax.tree.norm(gradients)
            size = event.hyper[name]["radius"] / jnp.where(norm > 0, norm, 1.0)
            worst = optax.tree.add(params, optax.tree.cast_like(optax.tree.scale(size, gradients), params))

            def gradient(batch=None, *, params=None, **options):
                return event.gradient(batch, params=worst if params is None else params, **options)

            inside = dataclasses.replace(event, gradient=gradient)
            return inner.update(gradient(), state, params, event=inside)

        return optax.GradientTransformationExtraArgs(inner.init, sharp)

    return Method(name=name, hyper={"radius": radius}, update=update)
