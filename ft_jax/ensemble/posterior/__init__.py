"""Several predictions from one run: averages along it, draws around it.

- `ema`, `swa`: the parameters' moving average or mean is evaluated and saved.
- `swag`: draws from a Gaussian fitted along training. `snapshots`: the ends of cycles. `mc_dropout`: dropout left on.
- `last_layer`: the Laplace approximation of a trained head, in closed form.
"""

from ft_jax.ensemble.posterior.averages import ema, swa
from ft_jax.ensemble.posterior.laplace import Laplace, last_layer
from ft_jax.ensemble.posterior.mc_dropout import mc_dropout
from ft_jax.ensemble.posterior.snapshots import snapshots
from ft_jax.ensemble.posterior.swag import swag

__all__ = ["Laplace", "ema", "last_layer", "mc_dropout", "snapshots", "swa", "swag"]
