"""Linear probing, then full fine-tuning."""

import jax.numpy as jnp

from ft_jax.core.adapters import require
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.optimizers import scale_updates
from ft_jax.transfer.depth import rates_of_parts


@register(
    "transfer",
    paper="Kumar et al. 2022, arXiv:2202.10054, section 3.4",
    example=lambda problem: lp_ft(steps=2),
    neutral=Neutral({"steps": 0.0, "tuning_rate": 1.0}),
)
def lp_ft(
    steps: float,
    probe_rate: float = 1.0,
    tuning_rate: float = 1.0,
    head: tuple[str, ...] = ("*/head/*",),
    *,
    name: str = "transfer.lp_ft",
) -> Method:
    """Learns the head first and everything from step `steps` on, so that a random head does not distort the features.

    Until step `steps` the updates of the head are multiplied by `probe_rate` and those of the model's other leaves by
    0; from then on all of the model's by `tuning_rate`. The switch is a number: nothing is compiled again, and
    ``state.with_hyper({"transfer.lp_ft.steps": 0})`` makes it at any moment. The optimizer sees the backbone's
    gradients all along, so its moments are those of the task when the backbone is let go.

    Args:
      steps: of linear probing, data in ``hyper`` as are all numbers here.
      probe_rate: the head's learning rate while probing, as a multiple of the optimizer's.
      tuning_rate: the model's learning rate afterwards, as a multiple of the optimizer's.
      head: patterns over parameter paths of what is probed.
      name: the method's name.

    Raises:
      ValueError: a negative number of steps; at init, where a pattern fits nothing, with the nearest paths.

    Example:
      >>> lp_ft(steps=100, probe_rate=30.0).hyper
      {'steps': 100, 'probe_rate': 30.0, 'tuning_rate': 1.0}
    """
    if steps < 0:
        raise ValueError(f"{name} probes for {steps} steps; give it at least 0")
    head = (head,) if isinstance(head, str) else tuple(head)

    def surgery(params, key):
        require(params, head, name)
        return params

    def update(inner):
        def factors(updates, event):
            numbers = event.hyper[name]
            probing = event.step < numbers["steps"]
            head_rate = jnp.where(probing, numbers["probe_rate"], numbers["tuning_rate"])
            backbone_rate = jnp.where(probing, 0.0, numbers["tuning_rate"])
            return rates_of_parts(updates, head, head_rate, backbone_rate)

        return scale_updates(inner, factors)

    hyper = {"steps": steps, "probe_rate": probe_rate, "tuning_rate": tuning_rate}
    return Method(name=name, hyper=hyper, surgery=surgery, update=update)
