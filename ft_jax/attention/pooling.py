"""One vector an example by attention over its tokens."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.attention.gates import places
from ft_jax.core.adapters import owned, require
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.grafts import Graft, graft, module_at
from ft_jax.core.method import Method
from ft_jax.core.weights import shape
from ft_jax.core.weights.operator import operator


@operator()
class Pooling(Graft):
    """The tokens' mean, each weighed by how well it answers a learned query."""

    scorer: Float[Array, "width hidden"]
    offset: Float[Array, " hidden"]
    query: Float[Array, " hidden"]
    strength: Float[Array, ""] | None = None

    def pool(self, hidden, real):
        weights = self.weights(hidden, real)
        return jnp.einsum("bt,btw->bw", weights, hidden.astype(jnp.float32)).astype(hidden.dtype)

    def weights(self, hidden: Float[Array, "batch time width"], real: Array) -> Float[Array, "batch time"]:
        """What each token weighs; 0 for padding, 1 in all."""
        scores = jnp.tanh(hidden.astype(jnp.float32) @ self.scorer + self.offset) @ self.query
        scores = scores if self.strength is None else self.strength * scores
        return jax.nn.softmax(jnp.where(real > 0, scores, 0.7 * jnp.finfo(jnp.float32).min), axis=1)


@register(
    "attention",
    paper="Yang et al. 2016, NAACL, equations 5 to 7; Lin et al. 2017, arXiv:1703.03130, equation 5",
    example=lambda problem: attentive_pooling(also=("*",)),
    neutral=Neutral({"strength": 0.0}),
)
def attentive_pooling(
    apply: Callable | None = None,
    hidden: int = 64,
    also: tuple[str, ...] = ("*/head/*",),
    *,
    name: str = "attention.attentive_pooling",
) -> Method:
    """Pools the tokens of an example by learned attention in place of their mean.

    ``weights = softmax(strength · tanh(hidden @ scorer + offset) @ query)`` over the real tokens, and the head reads
    ``Σ weights · hidden``. The query starts at zero, so training starts at the mean of the tokens, which is the
    base's function where the model was built with ``pooling="mean"``.

    Args:
      apply: the model's, to see that it pools by the mean.
      hidden: width of the scorer.
      also: patterns of leaves that learn besides, by default the head; ``("*",)`` for everything.
      name: the method's name; ``hyper[name]["strength"]`` is 1.

    Raises:
      ValueError: a width below 1, or a model that gives one vector a token or pools otherwise.

    Example:
      >>> attentive_pooling(hidden=32).hyper
      {'strength': 1.0}
    """
    if hidden < 1:
        raise ValueError(f"{name} has hidden {hidden}; give it at least 1")
    pooling = getattr(apply, "pooling", "mean")
    if pooling != "mean":
        raise ValueError(
            f"{name} takes the place of the mean over tokens, but the model's pooling is {pooling!r}; build it with "
            "ft_jax.models.with_classifier(..., pooling='mean')"
        )

    def surgery(params, key):
        require(params, also, name)
        width = shape(module_at(params["model"], places(params, name)[0])["key"]["kernel"])[0]
        scorer = jax.random.normal(key, (width, hidden)) * width**-0.5
        pool = Pooling(scorer, jnp.zeros((hidden,)), jnp.zeros((hidden,)))
        return {**params, "model": graft(params["model"], "", name, pool)}

    def view(params, context):
        own = pooling_of(params["model"], name)
        shown = Pooling(own.scorer, own.offset, own.query, context.hyper[name]["strength"])
        return {**params, "model": graft(params["model"], "", name, shown)}

    return Method(
        name=name,
        hyper={"strength": 1.0},
        surgery=surgery,
        trainable=owned(name, ("scorer", "offset", "query"), also),
        view=view,
    )


def pooling_of(model, name: str = "attention.attentive_pooling") -> Pooling:
    """The pooling that the method `name` put into a model, whose `Pooling.weights` say what each token weighs."""
    return model["grafts"][name]
