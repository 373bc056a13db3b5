"""Rescaled keys, values and inner activations."""

from collections.abc import Iterable, Mapping

import jax.numpy as jnp

from ft_jax.core.adapters import owned
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import replace_weights
from ft_jax.core.weights import Scaled, shape

TARGETS = {
    "outputs": ("*attention/key/kernel", "*attention/value/kernel"),
    "inputs": ("*mlp/down/kernel",),
}
"""The paper's places: keys and values are scaled, and what enters the second feed-forward projection."""


@register(
    "attention",
    paper="Liu et al. 2022, arXiv:2205.05638, section 3.3",
    example=lambda problem: ia3(),
    neutral="it replaces what learns by its scales, which start at one and have no strength to set to zero",
)
def ia3(targets: Mapping[str, Iterable[str]] = TARGETS, *, name: str = "attention.ia3") -> Method:
    """Learns one factor per feature of the keys, the values and the inner feed-forward activations.

    A key or value projection ``x @ w + bias`` becomes ``l * (x @ w + bias)`` with ``l [outputs]``; the second
    feed-forward projection ``x @ w + bias`` becomes ``(l * x) @ w + bias`` with ``l [inputs]``. Every ``l``
    starts at one, so training starts at the pretrained function; nothing else of the model learns.

    Args:
      targets: patterns over parameter paths by the side that is scaled, ``"outputs"`` or ``"inputs"``.
      name: the method's name.

    Raises:
      ValueError: another side; at init, patterns that fit no weight, with the nearest paths.

    Example:
      >>> ia3({"outputs": ("*attention/value/kernel",)}).name
      'attention.ia3'
    """
    sides = {side: (chosen,) if isinstance(chosen, str) else tuple(chosen) for side, chosen in targets.items()}
    unknown = [side for side in sides if side not in ("outputs", "inputs")]
    if unknown or not any(sides.values()):
        wrong = f"side {unknown[0]!r}" if unknown else "no targets"
        raise ValueError(f"{name} got {wrong}; give patterns for 'outputs', 'inputs' or both")

    def surgery(params, key):
        model = {"model": params["model"]}
        for side, patterns in sides.items():

            def scaled(path, weight, key, side=side):
                features = shape(weight)[1 if side == "outputs" else 0]
                return Scaled(base=weight, scale=jnp.ones(features, jnp.float32), side=side, owner=name)

            for pattern in patterns:
                model = replace_weights(model, (pattern,), scaled, key)
        return {**params, **model}

    return Method(name=name, surgery=surgery, trainable=owned(name, ("scale",)))
