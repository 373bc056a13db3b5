"""Weights of terms that make them learn at one pace."""

import jax
import jax.numpy as jnp
import optax

from ft_jax.adaptive.balance.gradients import combined, gram_of, one_balance
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import matches, nearest, path_of, paths


@register(
    "adaptive",
    paper="Chen et al. 2018, arXiv:1711.02257, equations 1 and 2",
    example=lambda problem: gradnorm(("task",)),
    neutral=Neutral({"rate": 0.0}),
)
def gradnorm(
    terms: tuple[str, ...],
    alpha: float = 1.5,
    rate: float = 0.025,
    of: tuple[str, ...] = ("*",),
    *,
    name: str = "adaptive.gradnorm",
) -> Method:
    """Learns weights of the terms by which their gradients' norms follow how far each is behind.

    The step descends ``Σ w_i L_i``, the w positive and ``Σ w = n``, from 1. With ``G_i = w_i |∇L_i|``, the loss ratio
    ``L_i / L_i(0)`` (0 being the first step in which the term is above zero) and ``r_i`` this over its mean, the w
    descend ``Σ |G_i - mean(G) r_i^alpha|`` (the target constant) and are scaled back to sum to n. They descend it in
    ``log w``, by ``rate`` and the gradient over the mean norm:

        ``w_i ← w_i exp(-rate sign(G_i - mean(G) r_i^alpha) G_i / mean(G))``

    So they stay positive, and one rate serves terms of any units; steps in w itself, the paper's, jump where a weight
    should be as small as the rate. Terms that are not named keep weight 1.

    Args:
      terms: the names of those to weigh, positive losses.
      alpha: how strongly a term that is behind is pulled; 0 makes all norms equal.
      rate: of the weights; 0 keeps them at 1.
      of: patterns of the parameters whose gradients' norms they are; all that learn by default, in the paper the last
        layer that the terms share.
      name: the method's name.

    Raises:
      ValueError: no terms; at init, a pattern that fits nothing that learns.
      KeyError: in the first step, a term that the loss does not have.

    Example:
      >>> gradnorm(("task", "depth")).hyper
      {'alpha': 1.5, 'rate': 0.025}
    """
    terms = tuple(terms)
    if not terms:
        raise ValueError(f"{name} has no terms to weigh; name those of the loss")

    def update(inner):
        def init(params):
            for pattern in of:
                if not any(matches(path, (pattern,)) for path in paths(params)):
                    raise ValueError(
                        f"{name} takes norms of {pattern!r}, which fits nothing that learns; the nearest are "
                        f"{nearest(pattern, paths(params))}"
                    )
            return inner.init(params), {"weights": jnp.ones(len(terms)), "first": jnp.zeros(len(terms))}

        def balanced(gradients, state, params=None, *, event):
            state, own = state
            numbers = event.hyper[name]
            trees = dict(event.gradient(by_term=True))
            missing = [term for term in terms if term not in trees]
            if missing:
                raise KeyError(f"{name} weighs term {missing[0]!r}, but the loss has {', '.join(trees)}")
            values = jnp.stack([event.terms[term] for term in terms])
            first = jnp.where(own["first"] > 0, own["first"], values)
            ratios = jnp.where(first > 0, values / jnp.where(first > 0, first, 1.0), 1.0)
            norms = jnp.sqrt(jnp.stack([gram_of([_those(trees[term], of)])[0, 0] for term in terms]))
            weights = gradnorm_weights(own["weights"], norms, ratios, numbers["alpha"], numbers["rate"])
            factors = [own["weights"][terms.index(term)] if term in terms else 1.0 for term in trees]
            gradients = combined(factors, list(trees.values()))
            updates, state = inner.update(gradients, state, params, event=event)
            return updates, (state, {"weights": weights, "first": first})

        return optax.GradientTransformationExtraArgs(init, balanced)

    hyper = {"alpha": alpha, "rate": rate}
    return Method(name=name, hyper=hyper, weighs=terms, update=update, per_term=True, refuses=one_balance)


def _those(tree, patterns: tuple[str, ...]) -> list[jax.Array]:
    """The leaves whose paths fit."""
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if matches(path_of(path), patterns)]


def gradnorm_weights(weights, norms, ratios, alpha, rate):
    """The weights after a step.

    Args:
      weights: before, ``[terms]``.
      norms: of the unweighted terms' gradients.
      ratios: the terms over what they were at the start.
      alpha, rate: see `gradnorm`.

    Example:
      >>> found = gradnorm_weights(jnp.ones(2), jnp.array([1.0, 3.0]), jnp.ones(2), 0.0, 0.1)
      >>> [round(float(weight), 3) for weight in found]
      [1.1, 0.9]
    """
    weighed = weights * norms
    middle = jnp.mean(weighed)
    middle = jnp.where(middle > 0, middle, 1.0)
    pace = ratios / jnp.maximum(jnp.mean(ratios), 1e-12)
    slope = jnp.sign(weighed - middle * pace**alpha) * weighed / middle
    moved = weights * jnp.exp(-rate * slope)
    return moved * len(weights) / jnp.sum(moved)
