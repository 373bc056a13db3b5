"""Examples altered with a probability that is a number of the state."""

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.data.augment_text import swap_tokens
from ft_jax.data.augmentation import Augmentation, augmented, sometimes


@register(
    "adaptive",
    paper="Karras et al. 2020, arXiv:2006.06676, section 3 (the probability moves by how much is learned by heart)",
    example=lambda problem: augment(swap_tokens(2), probability=0.6),
    neutral=Neutral({"probability": 0.0}),
)
def augment(augmentation: Augmentation, probability: float = 0.5, *, name: str = "adaptive.augment") -> Method:
    """Alters each example of a training batch with a probability.

    ``x ← augmentation(x)`` with chance `probability`, by draws of the step that depend on the example's content alone,
    so that micro-batches and devices alter it as the whole batch would; evaluations see examples as they are. The
    probability is a number, by which a controller makes the augmentation stronger and nothing compiles anew:
    ``adaptive.plateau(number="adaptive.augment.probability", factor=1.5)`` beside it raises it where a metric of
    examples that are not learned from has stopped improving; above 1 it is as 1.

    Args:
      augmentation: of one example, see `ft_jax.data.augment_text` and `ft_jax.data.augment_images`; on a command line
        and where tokens are special, `ft_jax.training.own_data.Altered`.
      probability: of each example in each step; data in ``hyper``.
      name: the method's name.

    Raises:
      ValueError: a probability outside 0 to 1; while tracing, an augmentation that adds fields.

    Example:
      >>> augment(swap_tokens(1), probability=0.3).hyper
      {'probability': 0.3}
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"{name} has probability {probability}; give it a chance from 0 to 1")

    def prepare(state, batch, context):
        if not context.train:
            return state, batch
        chance = state.hyper[name]["probability"]
        return state, augmented(sometimes(augmentation, chance), context.key_for(name), batch)

    return Method(name=name, hyper={"probability": probability}, prepare=prepare, reads="examples")
