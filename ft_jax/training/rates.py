"""Parts of a network that learn at a rate of their own."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import optax

from ft_jax.core import Optimizer
from ft_jax.core.optimizers import scale_updates
from ft_jax.core.params import map_with_path, matches, nearest, paths
from ft_jax.outside import printable


def check_rates(rates: Mapping[str, float]) -> None:
    """Raises ValueError on a share of the rate that can't be."""
    for pattern, share in rates.items():
        if not isinstance(share, int | float) or not 0 <= share < math.inf:
            raise ValueError(
                f"optimizer.rates has {printable(share)} for {printable(pattern)}; give a finite share of the learning "
                "rate of at least 0, such as 0.1"
            )


def rated(made: Optimizer, rates: Mapping[str, float]) -> Optimizer:
    """An optimizer whose updates of some parameters are multiplied: a share of the learning rate by pattern.

    Updates are multiplied after the optimizer, so schedules and decoupled weight decay go with the rate.

    Args:
      made: the optimizer.
      rates: by shell pattern of the parameters' paths; the first that fits counts, and 1 where none does.

    Raises:
      ValueError: at init, where a pattern fits no parameter that learns.

    Example:
      >>> import jax.numpy as jnp
      >>> from ft_jax.core import optimizer
      >>> slow = rated(optimizer(optax.sgd, learning_rate=1.0), {"model/encoders/text/*": 0.1})
      >>> dict(slow.hyper)
      {'learning_rate': 1.0}
    """

    def factors(updates: Any, event: Any) -> Any:
        def share(path, _):
            return next((factor for pattern, factor in rates.items() if matches(path, (pattern,))), 1.0)

        return map_with_path(share, updates)

    def init(params):
        known = paths(params)
        for pattern in rates:
            if not any(matches(path, (pattern,)) for path in known):
                raise ValueError(
                    f"optimizer.rates: no parameter that learns matches {printable(pattern)}; the nearest are "
                    f"{nearest(pattern, known)}"
                )
        return made.transform.init(params)

    scaled = scale_updates(made.transform, factors)
    return dataclasses.replace(made, transform=optax.GradientTransformationExtraArgs(init, scaled.update))
