"""LoRA with a learning rate of its own for each factor."""

import dataclasses

import optax

from ft_jax.core.adapters import map_operators
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.weights import LowRank
from ft_jax.transfer.dora import Directional
from ft_jax.transfer.lora import lora


def _over_lora(problem) -> Method:
    """LoRA and LoRA+ as one method: alone, LoRA+ has nothing to act on."""
    adapter, plus = lora(rank=2, alpha=4.0, also=("*/head/*",), name="transfer.lora_plus"), lora_plus(ratio=4.0)
    return dataclasses.replace(adapter, hyper={**adapter.hyper, **plus.hyper}, update=plus.update)


@register(
    "transfer",
    paper="Hayou, Ghosh and Yu 2024, arXiv:2402.12354, section 4",
    example=_over_lora,
    neutral=Neutral(
        {"ratio": 1.0},
        like=lambda problem: lora(rank=2, alpha=4.0, also=("*/head/*",), name="transfer.lora_plus"),
    ),
)
def lora_plus(ratio: float = 16.0, *, name: str = "transfer.lora_plus") -> Method:
    """Gives LoRA's second factor, the one that starts at zero, a higher learning rate than the first.

    With ``eta`` the optimizer's rate, ``a`` learns at ``eta`` and ``b`` at ``ratio · eta``, which lets features
    be learned efficiently at large width. The update of every ``b`` is multiplied after the optimizer, so
    schedules and decoupled weight decay go with the rate. Compose it with `ft_jax.transfer.lora` or
    `ft_jax.transfer.dora`.

    Args:
      ratio: the rate of ``b`` over that of ``a``, data in ``hyper``; 1 is plain LoRA.
      name: the method's name.

    Raises:
      ValueError: at init, when no low-rank factor learns.

    Example:
      >>> from ft_jax.core import compose
      >>> compose(lora_plus(ratio=8.0), lora(rank=4)).names
      ('transfer.lora_plus', 'transfer.lora')
    """

    def update(inner):
        def init(params):
            found = []

            def collect(weight):
                if isinstance(weight, LowRank | Directional) and weight.b is not None:
                    found.append(weight)
                return weight

            map_operators(collect, params)
            if not found:
                raise ValueError(f"{name} found no low-rank factors that learn; compose it with transfer.lora")
            return inner.init(params)

        def scaled(gradients, state, params=None, *, event):
            updates, state = inner.update(gradients, state, params, event=event)
            ratio = event.hyper[name]["ratio"]

            def faster(weight):
                own = isinstance(weight, LowRank | Directional) and weight.b is not None
                return dataclasses.replace(weight, b=weight.b * ratio) if own else weight

            return map_operators(faster, updates), state

        return optax.GradientTransformationExtraArgs(init, scaled)

    return Method(name=name, hyper={"ratio": ratio}, update=update)
