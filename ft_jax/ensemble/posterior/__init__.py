"""Several predictions from one run: draws around it.

- `last_layer`: the Laplace approximation of a trained head, in closed form.
"""

from ft_jax.ensemble.posterior.laplace import Laplace, last_layer

__all__ = ["Laplace", "last_layer"]
