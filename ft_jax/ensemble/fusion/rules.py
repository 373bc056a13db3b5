"""Fusions of what members predict: of classes and tokens by their logits, of numbers by their values.

All take one array, members first, or the members' arrays one by one.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def together(members: Array | Sequence[Array]) -> Float[Array, "members ..."]:
    """Members' predictions as one array; they may be given one by one.

    Raises:
      ValueError: no member, members of different shapes, which are named.

    Example:
      >>> together([jnp.zeros(3), jnp.zeros(4)])
      Traceback (most recent call last):
        ...
      ValueError: member 1 predicts (4,) and member 0 (3,); members are fused on the same examples and classes
    """
    if not len(members):
        raise ValueError("no member predicts; give the predictions of at least one")
    if isinstance(members, jax.Array | np.ndarray):
        return jnp.asarray(members)
    shapes = [jnp.shape(one) for one in members]
    for place, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"member {place} predicts {shape} and member 0 {shapes[0]}; members are fused on the same examples "
                "and classes"
            )
    return jnp.stack([jnp.asarray(one) for one in members])


def mean(logits: Float[Array, "members ... classes"]) -> Float[Array, "... classes"]:
    """Soft voting: ``log mean_k softmax(logits_k)``, the members' mean probability as log-probabilities."""
    logits = together(logits)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(logits.shape[0])


def product(logits: Float[Array, "members ... classes"]) -> Float[Array, "... classes"]:
    """A normalised product of experts: ``log_softmax(mean_k log_softmax(logits_k))`` (Hinton 2002)."""
    return jax.nn.log_softmax(jnp.mean(jax.nn.log_softmax(together(logits)), axis=0))


def vote(logits: Float[Array, "members ... classes"]) -> Float[Array, "... classes"]:
    """Hard voting: the log of each class's share of the members' first choices.

    One vote is spread over the classes by the mean probability, so a tie goes to the class that members
    find likelier and no share is zero.
    """
    logits = together(logits)
    members, classes = logits.shape[0], logits.shape[-1]
    votes = jnp.sum(jax.nn.one_hot(jnp.argmax(logits, axis=-1), classes), axis=0)
    return jnp.log(votes + jnp.exp(mean(logits))) - jnp.log(members + 1.0)


FUSIONS: dict[str, Callable[[Array], Array]] = {"mean": mean, "product": product, "vote": vote}


def weighted(
    logits: Float[Array, "members ... classes"], weights: Float[Array, " members"]
) -> Float[Array, "... classes"]:
    """A mixture: ``log Σ_k w_k softmax(logits_k)`` with weights that sum to 1, such as `mixture_weights` finds.

    Example:
      >>> logits = jnp.log(jnp.array([[[0.9, 0.1]], [[0.1, 0.9]]]))
      >>> print(jnp.exp(weighted(logits, jnp.array([0.5, 0.5]))).round(2))
      [[0.5 0.5]]
    """
    logits = together(logits)
    shape = (-1, *(1,) * (logits.ndim - 1))
    shares = jnp.log(weights / jnp.sum(weights)).reshape(shape)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits) + shares, axis=0)


def mixture_weights(
    logits: Float[Array, "members rows classes"], labels: Array, *, rounds: int = 200
) -> Float[Array, " members"]:
    """The weights of `weighted` under which held-out labels are likeliest, by expectation maximisation.

    ``w_k ← mean_i w_k p_ki / Σ_j w_j p_ji`` with ``p_ki`` the probability that member k gives label i; the likelihood
    is concave in the weights and grows with every round (Dempster et al. 1977).

    Args:
      logits: on examples that no member was trained on.
      labels: ``[rows]``; examples with a negative one don't count.
      rounds: of the iteration.

    Raises:
      ValueError: no example with a label.

    Example:
      >>> sure, wrong = jnp.log(jnp.array([0.9, 0.1])), jnp.log(jnp.array([0.1, 0.9]))
      >>> mixture_weights(jnp.stack([sure, wrong])[:, None], jnp.array([0])).round(2).tolist()
      [1.0, 0.0]
    """
    logits, counted = together(logits), labels >= 0
    if not bool(jnp.any(counted)):
        raise ValueError(f"none of {labels.shape[0]} examples has a label; weights are found on labelled examples")
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(labels, 0)[None, :, None], axis=-1)[..., 0]

    def round_(weights, _):
        responsible = jax.nn.softmax(jnp.log(weights)[:, None] + chosen, axis=0)
        return jnp.sum(responsible * counted, axis=1) / jnp.sum(counted), None

    start = jnp.full(logits.shape[0], 1.0 / logits.shape[0])
    return jax.lax.scan(round_, start, length=rounds)[0]


def mean_value(values: Float[Array, "members ..."], weights: Float[Array, " members"] | None = None) -> Array:
    """Regression: the mean of the members' numbers, or the weighted one."""
    return jnp.average(together(values), axis=0, weights=weights)


def gaussian(means: Float[Array, "members ..."], variances: Float[Array, "members ..."]) -> tuple[Array, Array]:
    """Regression: mean and variance of the mixture of the members' Gaussians (Lakshminarayanan et al. 2017, 2.4).

    ``mean = mean_k μ_k``, ``variance = mean_k (σ_k² + μ_k²) - mean²``: what members say of the noise and how far they
    disagree.

    Example:
      >>> [float(x) for x in gaussian(jnp.array([0.0, 2.0]), jnp.array([1.0, 1.0]))]
      [1.0, 2.0]
    """
    means, variances = together(means), together(variances)
    centre = jnp.mean(means, axis=0)
    return centre, jnp.mean(variances + jnp.square(means - centre), axis=0)


def token_log_probability(
    log_probabilities: Float[Array, "members batch time"], weights: Float[Array, " members"] | None = None
) -> Float[Array, "batch time"]:
    """Token streams: the log-probability that the members' mixture gives each label, from what each member gives it.

    ``log Σ_k w_k exp(log_probabilities_k)``: the mean's, without any member's whole logits.

    Example:
      >>> given = jnp.log(jnp.array([[[0.5]], [[0.1]]]))
      >>> round(float(jnp.exp(token_log_probability(given))[0, 0]), 2)
      0.3
    """
    log_probabilities = together(log_probabilities)
    shares = jnp.ones(log_probabilities.shape[0]) if weights is None else weights
    shares = (shares / jnp.sum(shares)).reshape(-1, *(1,) * (log_probabilities.ndim - 1))
    return jax.nn.logsumexp(log_probabilities, axis=0, b=shares)


def majority(votes: Sequence[Sequence[Hashable]], quorum: int | None = None) -> list[Hashable | None]:
    """What most members say of each example, whatever they say: classes, or whole answers (self-consistency).

    Wang et al. 2023, arXiv:2203.11171, for generated answers. Of equally frequent answers the one of the earlier member
    wins; None stands where no answer has the quorum.

    Args:
      votes: ``[members][examples]``; a member that abstains says None.
      quorum: votes that an answer needs; more than half of the members by default.

    Raises:
      ValueError: members that answer different numbers of examples, a quorum that no answer can have or that none has.

    Example:
      >>> majority([["a", "b"], ["a", "c"], ["b", "d"]])
      ['a', None]
    """
    counts = {len(member) for member in votes}
    if len(counts) != 1:
        said = ", ".join(str(len(member)) for member in votes) or "none"
        raise ValueError(f"members answer different numbers of examples ({said}); give every member's answers to all")
    needed = len(votes) // 2 + 1 if quorum is None else quorum
    if not 1 <= needed <= len(votes):
        raise ValueError(
            f"a quorum of {needed} can't be had from {len(votes)} members; give one from 1 to {len(votes)}"
        )
    found = []
    for answers in zip(*votes, strict=True):
        given = Counter(answer for answer in answers if answer is not None)
        answer, count = given.most_common(1)[0] if given else (None, 0)
        found.append(answer if count >= needed else None)
    if found and all(answer is None for answer in found):
        raise ValueError(f"no example has an answer with {needed} of {len(votes)} votes; lower the quorum")
    return found
