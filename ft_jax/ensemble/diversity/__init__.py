"""What makes members differ.

- `own_start`: untrained weights drawn anew. `batch_ensemble`: a rank-one factor of each weight.
- `lora_experts`: low-rank experts mixed by a router, in one model.
- `samme`: boosting, each member on what the earlier ones got wrong.
"""

from ft_jax.ensemble.diversity.batch_ensemble import batch_ensemble
from ft_jax.ensemble.diversity.boosting import Boosted, samme
from ft_jax.ensemble.diversity.lora_experts import lora_experts
from ft_jax.ensemble.diversity.own_start import own_start

__all__ = ["Boosted", "batch_ensemble", "lora_experts", "own_start", "samme"]
