"""Monte Carlo dropout."""

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.params import digest
from ft_jax.core.state import Context
from ft_jax.ensemble.posterior.draws import DRAW, NONE, check_draws, fused_draws


@register(
    "ensemble",
    paper="Gal and Ghahramani 2016, arXiv:1506.02142, equation 6",
    example=lambda problem: mc_dropout(2),
    neutral="it changes what is evaluated, and nothing that trains",
)
def mc_dropout(samples: int = 10, fusion: str = "mean", *, name: str = "ensemble.mc_dropout") -> Method:
    """Evaluates with dropout on, several times, and fuses the predictions.

    The model must have dropout (``model.configure(dropout=0.1)``); without it all samples are the same. Samples come
    from the run's key and the step, so the same state gives the same predictions, and a run's folder answers by them
    too. The parameters are those of the network without dropout.

    Args:
      samples: forward passes in an evaluation.
      fusion: of their predictions: ``"mean"``, ``"vote"`` or ``"product"``.
      name: the method's name.

    Raises:
      ValueError: fewer than one sample or an unknown fusion.

    Example:
      >>> mc_dropout(20).name
      'ensemble.mc_dropout'
    """
    check_draws(name, samples, fusion)

    def forward(inner):
        def run(params, batch, context):
            if context.train:
                return inner(params, batch, context)
            draw = context.memory[name][DRAW]
            key = jax.random.fold_in(jax.random.fold_in(context.local_key, digest(name)), draw)
            noisy = _Dropping(**vars(context.replace(local_key=key)))
            plain = inner(params, batch, context)
            sampled = inner(params, batch, noisy)
            return jax.tree.map(lambda a, b: jnp.where(draw >= 0, a, b), sampled, plain)

        return run

    return Method(
        name=name, memory=lambda params, key: {DRAW: NONE}, forward=forward, lift=fused_draws(name, samples, fusion)
    )


class _Dropping(Context):
    """The context of an evaluation with dropout: what is inside still answers as in an evaluation."""

    @property
    def dropout_key(self) -> jax.Array:
        return jax.random.fold_in(self.local_key, digest("dropout"))
