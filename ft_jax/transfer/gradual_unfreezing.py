"""Layers that begin to learn one after another, from the head down."""

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.transfer.depth import scale_by_depth


@register(
    "transfer",
    paper="Howard and Ruder 2018, arXiv:1801.06146, section 3.3",
    example=lambda problem: gradual_unfreezing(every=1),
    neutral=Neutral({"every": 0.0}),
)
def gradual_unfreezing(every: float, *, name: str = "transfer.gradual_unfreezing") -> Method:
    """Thaws one layer after another, so that the pretrained ones are not spoilt by a head that knows nothing yet.

    A leaf ``depth`` layers below the head learns from step ``every · depth`` on: the head at once, the last layer
    after `every` steps, the embeddings last. Until then its update is multiplied by 0. The optimizer sees its
    gradients all the same, so that its moments are those of the task when the layer is let go, and nothing is compiled
    again. Parameters of other methods learn from the start.

    Args:
      every: steps between two layers, data in ``hyper``: the paper's epoch. 0 is plain training.
      name: the method's name.

    Raises:
      ValueError: a negative number of steps.

    Example:
      >>> gradual_unfreezing(every=100).hyper
      {'every': 100}
    """
    if every < 0:
        raise ValueError(f"{name} thaws a layer every {every} steps; give it at least 0")

    def update(inner):
        return scale_by_depth(inner, lambda depth, event: event.step >= event.hyper[name]["every"] * depth)

    return Method(name=name, hyper={"every": every}, update=update)
