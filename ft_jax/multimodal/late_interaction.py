"""Late interaction: every token of a query looks for its most similar token of a document."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.outputs import real_tokens
from ft_jax.core.params import Params
from ft_jax.multimodal.clip import paired_with_itself, twin
from ft_jax.multimodal.towers import beside, counted_mean, projected, seen_by, unit


@register(
    "multimodal",
    paper="Khattab and Zaharia 2020, arXiv:2004.12832, equation 3; Yao et al. 2021, arXiv:2111.07783, equation 3",
    needs=("paired",),
    example=lambda problem: twin(late_interaction, problem),
    batch=paired_with_itself,
    neutral=Neutral({"weight": 0.0}),
)
def late_interaction(
    apply: Callable,
    params: Params,
    width: int,
    other: str = "paired",
    weight: float = 1.0,
    *,
    reduce: Literal["sum", "mean"] = "sum",
    symmetric: bool = False,
    temperature: float = 1.0,
    inputs: tuple[int, int] | None = None,
    name: str = "multimodal.late_interaction",
) -> Method:
    """Learns a second tower beside the model by the similarity of their tokens, found one by one.

    With unit vectors ``q`` of the model's tokens and ``d`` of the second tower's, an example's score with another is
    ``s(q, d) = Σ_i max_j q_i · d_j`` over real tokens, and the term is
    ``weight · cross_entropy(s(q_a, d_b) / temperature, b = a)`` among the documents of the whole batch. With
    ``reduce="mean"`` and ``symmetric=True`` it is FILIP's: the mean over ``i``, and both directions' losses halved.
    Scores are made for one query at a time and again in the backward pass, so that ``[n, n, tokens, tokens]`` is
    never held.

    Args:
      apply, params, width, other, weight, inputs, name: as for `clip`; both towers give a vector a token (an image's
        patches), of which ``attention_mask`` says which are real.
      reduce: over the query's tokens.
      symmetric: whether documents look for queries too.
      temperature: of the scores, a number in ``hyper``.

    Raises:
      KeyError, ValueError: as for `clip`; where a tower gives one vector an example.

    Example:
      >>> late_interaction(lambda params, batch, key: None, {}, width=64)
      Method('multimodal.late_interaction', weight=1, temperature=1)
    """
    if reduce not in ("sum", "mean"):
        raise ValueError(f"reduce is {reduce!r}; use 'sum' (ColBERT) or 'mean' (FILIP)")

    def represent(projection, outputs, batch, name):
        hidden = outputs.hidden.astype(jnp.float32)
        if hidden.ndim != 3:
            raise ValueError(f"{name} compares tokens, and a tower gives one vector an example; leave its pooling out")
        real = real_tokens(batch)
        real = jnp.ones(hidden.shape[:2]) if real is None else (real > 0).astype(jnp.float32)
        # What is no token is no vector either, so that neither is kept apart.
        return unit(projected(projection, hidden, name)) * real[..., None]

    def value(pair, context):
        def rows(own, everyone, start, shared, aligned, all_aligned):
            return _interaction(own, everyone, start, shared, aligned, all_aligned, reduce, symmetric)

        scale = jax.lax.stop_gradient(1 / context.hyper[name]["temperature"])
        return context.couple(rows, (pair.x, pair.y), scale, pair.counts)

    return beside(
        name, apply, params, width, other, inputs, value,
        weight=weight, represent=represent, scalars={}, hyper={"temperature": temperature},
    )  # fmt: skip


def max_similarities(
    queries: Float[Array, "queries tokens width"],
    documents: Float[Array, "documents others width"],
    reduce: str = "sum",
) -> Float[Array, "queries documents"]:
    """``s(q, d) = Σ_i max_j q_i · d_j``, or the mean over ``i``; vectors of zeros are no tokens.

    Example:
      >>> query, document = jnp.array([[[1.0, 0.0], [0.0, 1.0]]]), jnp.array([[[0.6, 0.8], [0.0, 0.0]]])
      >>> round(float(max_similarities(query, document)[0, 0]), 4)
      1.4
    """
    there = jnp.any(documents != 0, axis=-1)
    queries_there = jnp.any(queries != 0, axis=-1)

    @jax.checkpoint
    def of_one(query, real):
        similar = jnp.einsum("tw,dsw->dts", query, documents)
        best = jnp.max(jnp.where(there[:, None, :], similar, -jnp.inf), axis=-1)  # [documents, tokens]
        total = jnp.sum(jnp.where(real & jnp.any(there, axis=-1)[:, None], best, 0.0), axis=-1)
        return total / jnp.maximum(jnp.sum(real), 1) if reduce == "mean" else total

    return jax.lax.map(lambda one: of_one(*one), (queries, queries_there))


def _interaction(own, everyone, start, scale, counts, all_counts, reduce, symmetric):
    place, seen = seen_by(counts, all_counts, start)
    directions = [(own[0], everyone[1])] + ([(own[1], everyone[0])] if symmetric else [])
    losses = [
        optax.softmax_cross_entropy_with_integer_labels(
            jnp.where(seen, scale * max_similarities(mine, theirs, reduce), -jnp.inf), place
        )
        for mine, theirs in directions
    ]
    return counted_mean(sum(losses) / len(losses), counts, all_counts)
