"""Which tokens the loss counts: weights by attention, and the tokens that a reference model finds learnable."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.attention.maps import KIND, attention_maps, real_tokens
from ft_jax.core import batches
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.losses import token_log_probabilities
from ft_jax.core.method import Method
from ft_jax.core.params import Params, never


@register(
    "attention",
    paper="attention received as importance, after Clark et al. 2019, arXiv:1906.04341, and Michel et al. 2019",
    needs=("labels",),
    example=lambda problem: token_weighting(strength=0.5),
    neutral=Neutral({"strength": 0.0}),
)
def token_weighting(
    strength: float = 1.0,
    layers: Sequence[int] | None = None,
    shifted: bool = True,
    *,
    name: str = "attention.token_weighting",
) -> Method:
    """Weighs each token in the loss by the attention that it receives from the others.

    A token's importance is ``mean over layers, heads and the queries that see it of map · (keys seen)``, which is
    one for every token under even attention. The loss's weights become
    ``weights · (1 - strength + strength · importance)``, scaled so that those of a sequence add up to what they
    did before: attention moves the loss among the tokens of a sequence and changes nothing between sequences.
    The weights aren't differentiated, and evaluation uses the plain ones.

    Args:
      strength: 0 for the plain weights, 1 for those by attention; in ``hyper``.
      layers: whose maps count; None for all.
      shifted: whether the label of position ``t`` is token ``t + 1`` (language modelling), not token ``t`` (masked
        tokens, tagging).
      name: the method's name.

    Raises:
      ValueError: in training, labels that are one an example; outputs without maps.

    Example:
      >>> token_weighting(strength=0.5).hyper
      {'strength': 0.5}
    """

    def loss(inner):
        def weighed(learned, batch, context):
            if not context.train:
                return inner(learned, batch, context)
            weights = token_weights(batch, name)
            # The same pass as the loss's: a compiler that sees both makes one of them.
            outputs = inner(jax.lax.stop_gradient(learned), batch, context)[1]
            maps = attention_maps(outputs, weights.shape[1], layers, name)
            importance = sum(received(own, real_tokens(batch, own)) for own in maps) / len(maps)
            if shifted:
                importance = jnp.concatenate([importance[:, 1:], jnp.ones_like(importance[:, :1])], axis=1)
            share = context.hyper[name]["strength"]
            return inner(learned, moved(batch, 1 - share + share * importance), context)

        return weighed

    return Method(name=name, hyper={"strength": strength}, collects=(KIND,), loss=loss, reads="examples")


def received(
    maps: Float[Array, "batch heads time time"], real: Float[Array, "batch time"]
) -> Float[Array, "batch time"]:
    """The attention that each token receives, 1 where every query spreads its attention evenly.

    Example:
      >>> received(jnp.tril(jnp.ones((1, 1, 3, 3))) / jnp.arange(1, 4)[:, None], jnp.ones((1, 3))).tolist()
      [[1.0, 1.0, 1.0]]
    """
    seen = (maps > 0) * real[:, None, :, None]
    relative = maps * jnp.sum(maps > 0, axis=-1, keepdims=True) * seen
    return jnp.sum(relative, axis=(1, 2)) / jnp.maximum(jnp.sum(seen, axis=(1, 2)), 1.0)


@register(
    "attention",
    paper="Lin et al. 2024, arXiv:2404.07965, equations 3 to 5",
    needs=("labels",),
    example=lambda problem: rho1(problem.apply, jax.tree.map(lambda leaf: 1.2 * leaf, problem.params), keep=0.5),
    neutral=Neutral({"keep": 1.0}),
)
def rho1(
    apply: Callable,
    params: Params,
    keep: float = 0.6,
    *,
    name: str = "attention.rho1",
) -> Method:
    """Trains on the tokens whose loss most exceeds a reference model's: selective language modelling.

    A token's score is ``loss - loss_reference``, its cross-entropy under the model less that under a reference
    trained on text of the wanted kind. Of each sequence the ``keep`` share with the highest scores counts, with
    weights scaled so that those of a sequence add up to what they did before. What is learned already and what
    can't be learned is left out. Evaluation counts every token.

    Args:
      apply: the reference's ``(params, batch, key) -> Outputs`` over the same vocabulary.
      params: the reference's parameters: frozen, held once and shared by all members.
      keep: share of the tokens kept, in ``hyper``; 1 keeps all.
      name: the method's name, under which the reference's parameters stand.

    Raises:
      ValueError: a share that is not in (0, 1]; in training, labels that are one an example.

    Example:
      >>> from ft_jax.models import tiny_decoder
      >>> model = tiny_decoder(jax.random.key(0))
      >>> rho1(model.apply, model.params).hyper
      {'keep': 0.6}
    """
    if not 0 < keep <= 1:
        raise ValueError(f"{name} has keep {keep}; give the share of tokens to train on, above 0 and at most 1")

    def surgery(tree, key):
        return {**tree, name: params}

    def loss(inner):
        def selective(learned, batch, context):
            if not context.train:
                return inner(learned, batch, context)
            weights = token_weights(batch, name)
            still = jax.lax.stop_gradient(learned)
            labels = jnp.maximum(batch["labels"], 0)
            # The same pass as the loss's: a compiler that sees both makes one of them.
            losses = -token_log_probabilities(inner(still, batch, context)[1], labels)
            reference = -token_log_probabilities(apply(context.join(still)[name], batch, None), labels)
            chosen = selected(losses - reference, weights > 0, context.hyper[name]["keep"])
            return inner(learned, moved(batch, chosen), context)

        return selective

    return Method(
        name=name,
        hyper={"keep": keep},
        surgery=surgery,
        trainable=never(f"{name}/*"),
        loss=loss,
        reads="examples",
    )


def selected(scores: Float[Array, "batch time"], counted: Array, keep: Float[Array, ""] | float) -> Array:
    """1 at the ``keep`` share (rounded up) of each row's counted places with the highest scores.

    Example:
      >>> selected(jnp.array([[3.0, 9.0, 1.0, 2.0]]), jnp.array([[True, False, True, True]]), 0.5).tolist()
      [[1.0, 0.0, 0.0, 1.0]]
    """
    scores = jax.lax.stop_gradient(jnp.where(counted, scores, -jnp.inf))
    rank = jnp.argsort(jnp.argsort(-scores, axis=1), axis=1)
    # Less a little, or 0.6 of 5 in float32 would be rounded up to 4.
    most = jnp.ceil(keep * jnp.sum(counted, axis=1, keepdims=True) - 1e-4)
    return ((rank < most) & counted).astype(jnp.float32)


def token_weights(batch, name: str) -> Float[Array, "batch time"]:
    """The weights of a batch of token labels.

    Raises:
      ValueError: where there are no labels, or one an example.
    """
    if "labels" not in batch or batch["labels"].ndim != 2:
        what = f"labels {batch['labels'].shape}" if "labels" in batch else f"only {batches.named(batch)}"
        raise ValueError(
            f"{name} weighs the tokens of a loss and needs labels [batch, time], but the batch has {what}; use it with "
            "a language model's loss"
        )
    return batches.token_weights(batch)


def moved(batch, factors: Float[Array, "batch time"]):
    """`batch` with its tokens' weights times `factors`, scaled so that those of each row add up to what they did.

    Rows in which nothing would count stay as they are.
    """
    weights = batches.token_weights(batch)
    total, wanted = (jnp.sum(x, axis=1, keepdims=True) for x in (weights * factors, weights))
    scale = jnp.where(total > 0, factors * wanted / jnp.where(total > 0, total, 1.0), 1.0)
    return batches.scaled(batch, jax.lax.stop_gradient(scale))
