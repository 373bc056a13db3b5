"""A penalty on the distance from the pretrained weights."""

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import matches, paths


@register(
    "transfer",
    paper="Li, Grandvalet and Davoine 2018, arXiv:1802.01483, equation 2",
    example=lambda problem: l2_sp(alpha=0.1, beta=0.01),
    neutral=Neutral({"alpha": 0.0, "beta": 0.0}),
)
def l2_sp(
    alpha: float = 0.1, beta: float = 0.01, head: tuple[str, ...] = ("*/head/*",), *, name: str = "transfer.l2_sp"
) -> Method:
    """Holds the model's weights near where training started, and the new head's near zero.

    Adds the term ``alpha / 2 · Σ_{w not in head} |w - w0|² + beta / 2 · Σ_{w in head} |w|²`` over the learning leaves
    of ``params["model"]``, with ``w0`` the weights at the start (SP: starting point), kept in memory. With an adapter
    these are the adapter's own leaves. Evaluation reports the term as well.

    Args:
      alpha: the pull to the start, data in ``hyper`` as is `beta`; 0.001 to 0.1 in the paper.
      beta: the pull of the head to zero; 0.01 in the paper.
      head: patterns over parameter paths of what is new, which has no pretrained value.
      name: the method's name; ``memory[name]`` is like the learning leaves of the model.

    Example:
      >>> l2_sp(alpha=0.05).hyper
      {'alpha': 0.05, 'beta': 0.01}
    """
    head = (head,) if isinstance(head, str) else tuple(head)

    def memory(params, key):
        # Not the same arrays: the step gives its state's buffers away, and one buffer can't be given twice.
        return jax.tree.map(jnp.copy, params["model"])

    def loss(inner):
        def penalised(params, batch, context):
            terms, outputs = inner(params, batch, context)
            numbers, model = context.hyper[name], params["model"]
            value = jnp.float32(0)
            places = paths({"model": model})
            leaves, starts = jax.tree.leaves(model), jax.tree.leaves(context.memory[name])
            for path, leaf, start in zip(places, leaves, starts, strict=True):
                leaf = leaf.astype(jnp.float32)
                if matches(path, head):
                    value += numbers["beta"] / 2 * jnp.sum(jnp.square(leaf))
                else:
                    value += numbers["alpha"] / 2 * jnp.sum(jnp.square(leaf - start.astype(jnp.float32)))
            return {**terms, name: value}, outputs

        return penalised

    return Method(name=name, hyper={"alpha": alpha, "beta": beta}, memory=memory, loss=loss)
