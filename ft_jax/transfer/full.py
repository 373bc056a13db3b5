"""Full fine-tuning."""

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method


@register(
    "transfer",
    paper="Howard and Ruder 2018, arXiv:1801.06146, section 3.3 (fine-tuning all layers)",
    example=lambda problem: full(),
    neutral=Neutral({}),
)
def full(*, name: str = "transfer.full") -> Method:
    """Every weight of the model learns, whatever else the composition freezes.

    It is what a step does by itself; naming it says so, and thaws the base under an adapter.

    Args:
      name: the method's name.

    Raises:
      ValueError: at init, where the model holds quantised codes, which can't learn.

    Example:
      >>> full().trainable("model/layers/0/mlp/up/kernel", None)
      True
    """
    return Method(name=name, trainable=lambda path, leaf: True if path.startswith("model/") else None)
