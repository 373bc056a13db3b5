"""A start of its own for each member."""

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import digest, map_with_path, matches, nearest, paths


@register(
    "ensemble",
    paper="Lakshminarayanan et al. 2017, arXiv:1612.01474, section 2.4 (random initialisation of each member)",
    example=lambda problem: own_start(),
    neutral="it changes where training starts and has no strength to set to zero",
    pretrained=False,
)
def own_start(patterns: tuple[str, ...] = ("*",), *, name: str = "ensemble.own_start") -> Method:
    """Draws untrained weights anew: the numbers of each array in an order of the run's own.

    A model is built once, and without this the `members` of one program all start as it was built: with the same
    batches and no dropout they stay one network. Shuffling keeps whatever distribution an array was drawn from, and
    zeros and ones as they are. On pretrained weights it would destroy them; there let it have new parts alone, such as
    ``("*/head/*",)``, or let members differ by adapters, bags or features.

    Args:
      patterns: over the paths of the model's floating-point arrays.
      name: the method's name.

    Raises:
      ValueError: at init, a pattern that fits nothing.

    Example:
      >>> params = {"model": {"head": {"kernel": jnp.arange(4.0)}}}
      >>> shuffled = own_start().surgery(params, jax.random.key(0))["model"]["head"]["kernel"]
      >>> sorted(shuffled.tolist())
      [0.0, 1.0, 2.0, 3.0]
    """

    def surgery(params, key):
        model = {"model": params["model"]}
        known = paths(model)
        for pattern in patterns:
            if not any(matches(path, (pattern,)) for path in known):
                raise ValueError(f"{name}: no parameter matches {pattern}; the nearest are {nearest(pattern, known)}")

        def shuffled(path, leaf):
            if not matches(path, patterns) or not jnp.issubdtype(leaf.dtype, jnp.floating):
                return leaf
            own = jax.random.fold_in(key, digest(path))
            return jax.random.permutation(own, leaf.reshape(-1)).reshape(leaf.shape)

        return {**params, **map_with_path(shuffled, model)}

    return Method(name=name, surgery=surgery)
