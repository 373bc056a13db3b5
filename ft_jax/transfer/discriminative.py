"""A learning rate for each layer."""

import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.transfer.depth import scale_by_depth


@register(
    "transfer",
    paper="Howard and Ruder 2018, arXiv:1801.06146, section 3.2",
    example=lambda problem: discriminative(),
    neutral=Neutral({"ratio": 1.0}),
)
def discriminative(ratio: float = 2.6, *, name: str = "transfer.discriminative") -> Method:
    """Lower layers, which hold the more general knowledge, learn at lower rates than the head.

    With ``eta`` the optimizer's rate, a leaf ``depth`` layers below the head learns at ``eta · ratio^-depth``: the
    head at ``eta``, the last layer at ``eta / ratio``, the embeddings lowest. The updates are multiplied after the
    optimizer, so schedules and decoupled weight decay go with the rate. Adapters count as part of their layer; the
    parameters of other methods keep the optimizer's rate.

    Args:
      ratio: of the rates of two neighbouring layers, data in ``hyper``; 2.6 in the paper, 1 is plain training.
      name: the method's name.

    Raises:
      ValueError: a ratio that is not above 0.

    Example:
      >>> from ft_jax.core import compose
      >>> from ft_jax.transfer.gradual_unfreezing import gradual_unfreezing
      >>> compose(gradual_unfreezing(every=100), discriminative()).names
      ('transfer.gradual_unfreezing', 'transfer.discriminative')
    """
    if ratio <= 0:
        raise ValueError(f"{name} has ratio {ratio}; give it a ratio above 0, such as 2.6")

    def update(inner):
        def rate(depth, event):
            return event.hyper[name]["ratio"] ** -jnp.asarray(depth, jnp.float32)

        return scale_by_depth(inner, rate)

    return Method(name=name, hyper={"ratio": ratio}, update=update)
