"""Steps that combine the gradients of a loss's terms so that they conflict less."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ft_jax.adaptive.balance import weights as rules
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import digest

ALONE = Neutral({})
"""One term is nobody's rival: its gradient is the step's."""


@register(
    "adaptive",
    paper="Yu et al. 2020, arXiv:2001.06782, algorithm 1",
    example=lambda problem: pcgrad(),
    neutral=ALONE,
)
def pcgrad(*, name: str = "adaptive.pcgrad") -> Method:
    """Takes from each term's gradient what conflicts with another's, and descends the sum of what is left.

    For the others ``j`` of a random order, ``g_i ← g_i - min(g_i·g_j, 0) / |g_j|² g_j``. All terms of the loss take
    part, those of methods named after it included; the gradients are the whole batch's, over micro-batches and devices.

    Args:
      name: the method's name.

    Example:
      >>> pcgrad().per_term
      True
    """
    return _by_gram(name, lambda gram, key, numbers: rules.pcgrad_weights(gram, key))


@register(
    "adaptive",
    paper="Liu et al. 2021, arXiv:2110.14048, equation 4 and algorithm 1",
    example=lambda problem: cagrad(),
    neutral=Neutral({"c": 0.0}),
)
def cagrad(c: float = 0.5, *, name: str = "adaptive.cagrad") -> Method:
    """Descends near the mean gradient, in the direction there that helps the worst term most.

    ``n · (g₀ + c |g₀| g_w / |g_w|)`` of ``n`` terms, ``w = argmin g_w·g₀ + c |g₀| |g_w|`` over the simplex; see
    `ft_jax.adaptive.balance.weights.cagrad_weights`. The factor ``n`` makes ``c = 0`` the plain step.

    Args:
      c: how far from the mean gradient, as a share of its norm; with ``c < 1`` it converges to the mean's optimum.
      name: the method's name.

    Raises:
      ValueError: a negative c, and in the first step more than 8 terms.

    Example:
      >>> cagrad(0.4).hyper
      {'c': 0.4}
    """
    if not c >= 0:
        raise ValueError(f"{name} got c={c}; give a share of the mean gradient's norm, at least 0")
    return _by_gram(
        name, lambda gram, key, numbers: len(gram) * rules.cagrad_weights(gram, numbers["c"]), hyper={"c": c}
    )


@register(
    "adaptive",
    paper="Désidéri 2012, Comptes Rendus 350; Sener and Koltun 2018, arXiv:1810.04650",
    example=lambda problem: mgda(),
    neutral=ALONE,
)
def mgda(*, name: str = "adaptive.mgda") -> Method:
    """Descends the shortest convex combination of the terms' gradients, which lowers all of them or none.

    ``n · Σ w_i g_i`` of ``n`` terms with ``w = argmin |Σ w_i g_i|²`` over the simplex, solved exactly.

    Args:
      name: the method's name.

    Raises:
      ValueError: in the first step, more than 8 terms.

    Example:
      >>> mgda().name
      'adaptive.mgda'
    """
    return _by_gram(name, lambda gram, key, numbers: len(gram) * rules.mgda_weights(gram))


@register(
    "adaptive",
    paper="Quinton and Rey 2024, arXiv:2406.16232",
    example=lambda problem: upgrad(),
    neutral=ALONE,
)
def upgrad(*, name: str = "adaptive.upgrad") -> Method:
    """Projects each term's gradient onto the directions that raise no term, and descends the sum.

    ``n · mean_i π(g_i)`` of ``n`` terms, ``π`` the projection onto the dual cone of the gradients; see
    `ft_jax.adaptive.balance.weights.upgrad_weights`.

    Args:
      name: the method's name.

    Raises:
      ValueError: in the first step, more than 8 terms.

    Example:
      >>> upgrad().name
      'adaptive.upgrad'
    """
    return _by_gram(name, lambda gram, key, numbers: len(gram) * rules.upgrad_weights(gram))


@register(
    "adaptive",
    paper="Liu et al. 2021, Towards Impartial Multi-task Learning, ICLR 2021 (IMTL-G)",
    example=lambda problem: imtl(),
    neutral=ALONE,
)
def imtl(*, name: str = "adaptive.imtl") -> Method:
    """Descends the combination that goes equally far along every term's gradient.

    ``n · Σ w_i g_i`` of ``n`` terms with ``Σ w = 1`` and ``(Σ w_i g_i)·g_j / |g_j|`` the same for all j.

    Args:
      name: the method's name.

    Example:
      >>> imtl().name
      'adaptive.imtl'
    """
    return _by_gram(name, lambda gram, key, numbers: len(gram) * rules.imtl_weights(gram))


@register(
    "adaptive",
    paper="Senushkin et al. 2023, arXiv:2305.19000 (Aligned-MTL)",
    example=lambda problem: aligned(),
    neutral=ALONE,
)
def aligned(*, name: str = "adaptive.aligned") -> Method:
    """Turns the terms' gradients until they are orthogonal and of one length, and descends their sum.

    ``n · Σ w_i g_i`` of ``n`` terms; see `ft_jax.adaptive.balance.weights.aligned_weights`.

    Args:
      name: the method's name.

    Example:
      >>> aligned().name
      'adaptive.aligned'
    """
    return _by_gram(name, lambda gram, key, numbers: len(gram) * rules.aligned_weights(gram))


def _by_gram(name: str, rule: Callable, hyper=()) -> Method:
    """The method whose step is ``Σ rule(gram, key, numbers)_i g_i``."""

    def update(inner):
        def balanced(gradients, state, params=None, *, event):
            trees = list(event.gradient(by_term=True).values())
            key = jax.random.fold_in(event.key, digest(name))
            found = rule(gram_of(trees), key, event.hyper.get(name, {}))
            return inner.update(combined(found, trees), state, params, event=event)

        return optax.GradientTransformationExtraArgs(inner.init, balanced)

    return Method(name=name, hyper=dict(hyper), update=update, per_term=True, refuses=one_balance)


def gram_of(trees):
    """The inner products of trees, ``[count, count]`` in float32."""
    trees = [jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree) for tree in trees]
    return jnp.array([[optax.tree.vdot(one, other) for other in trees] for one in trees])


def combined(weights, trees):
    """``Σ weights_i trees_i``."""

    def one(*leaves):
        return sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)).astype(leaves[0].dtype)

    return jax.tree.map(one, *trees)


def one_balance(parts: tuple[Method, ...]) -> str | None:
    """Why two methods that combine the terms' gradients can't be in one composition."""
    names = sorted(part.name for part in parts if part.per_term)
    if len(names) < 2:
        return None
    return f"{' and '.join(names[:2])} each combine the gradients of the terms into the step; leave one of them out"
