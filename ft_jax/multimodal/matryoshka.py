"""Embeddings whose first numbers are embeddings too."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.state import Ungathered
from ft_jax.multimodal.towers import unit


@register(
    "multimodal",
    paper="Kusupati et al. 2022, arXiv:2205.13147, equation 1",
    example=lambda problem: matryoshka((2, 4)),
    neutral=Neutral({"width_2": 0.0, "width_4": 0.0}),
)
def matryoshka(widths: Sequence[int], weights: Sequence[float] | None = None, *, name: str = "multimodal.matryoshka"):
    """The loss of what is inside it, also of embeddings cut to their first numbers: ``Σ_m c_m · L(z[:m])``.

    Around a method that compares embeddings (`clip`, `siglip`, `late_interaction`, `bind` …: all that
    `Context.couple` them) each comparison is made of ``unit(z[:m])`` for every width ``m``, beside the whole one: the
    networks run once. Where nothing inside compares embeddings, the head reads ``z[:m]`` alone (the paper's MRL-E,
    whose classifiers share their weights): every term is made once for each width.

    Name it before the method it is around: ``compose(matryoshka((32, 64)), clip(...))``.

    Args:
      widths: numbers of an embedding to cut to, besides its whole width, which always counts 1.
      weights: ``c_m`` of each width, 1 by default; they are ``hyper[name]["width_<m>"]``.
      name: the method's name.

    Raises:
      ValueError: no width, one below 1 or named twice, weights that are not as many; in the first step, a width that is
        not below the embedding's.

    Example:
      >>> matryoshka((32, 64), weights=(0.5, 1.0))
      Method('multimodal.matryoshka', width_32=0.5, width_64=1)
    """
    widths = tuple(widths)
    weights = (1.0,) * len(widths) if weights is None else tuple(weights)
    if not widths or min(widths) < 1 or len(set(widths)) < len(widths):
        raise ValueError(f"{name} has widths {widths}; give at least one, each above 0 and named once")
    if len(weights) != len(widths):
        raise ValueError(f"{name} has {len(widths)} widths and {len(weights)} weights; give one for each")

    def check(width, full):
        if width >= full:
            raise ValueError(f"{name} cuts embeddings to {width} numbers and they have {full}; give a smaller width")

    def cut(width, rows):
        def one(x):
            check(width, x.shape[-1])
            return unit(x[..., :width])

        return jax.tree.map(one, rows)

    def loss(inner):
        def nested(params, batch, context):
            numbers = context.hyper[name]
            factors = jax.lax.stop_gradient([numbers[f"width_{width}"] for width in widths])
            seen = []

            def coupling(function, rows, shared, aligned, axis):
                if getattr(function, "of_classes", False):
                    return context.coupling(function, rows, shared, aligned, axis)
                seen.append(True)
                return context.coupling(*_nested(function, cut, widths, rows, (shared, factors), aligned), axis)

            terms, outputs = inner(params, batch, context.replace(coupling=coupling))
            if seen:
                return terms, outputs
            terms = dict(terms)
            for width, factor in zip(widths, factors, strict=True):
                found, _ = inner(params, batch, context.replace(network=_cut_network(context.network, width, check)))
                terms = {term: value + factor * found[term] for term, value in terms.items()}
            return terms, outputs

        return nested

    hyper = {f"width_{width}": weight for width, weight in zip(widths, weights, strict=True)}
    return Method(name=name, hyper=hyper, loss=loss)


def _nested(function, cut, widths, rows, shared, aligned):
    """The arguments of a coupling whose value is the sum over all widths."""

    def total(value_of, factors):
        values = [value_of(lambda rows: rows)] + [
            value_of(lambda rows, width=width: cut(width, rows)) for width in widths
        ]
        return jax.tree.map(lambda *each: sum(f * v for f, v in zip((1.0, *factors), each, strict=True)), *values)

    if isinstance(function, Ungathered):

        def alone(rows, shared, aligned, axis):
            shared, factors = shared
            return total(lambda of: function.function(of(rows), shared, aligned, axis), factors)

        return Ungathered(alone), rows, shared, aligned

    def gathered(own, everyone, start, shared, aligned, all_aligned):
        shared, factors = shared
        return total(lambda of: function(of(own), of(everyone), start, shared, aligned, all_aligned), factors)

    return gathered, rows, shared, aligned


def _cut_network(network, width, check):
    """The wrapped forward pass whose vectors are 0 from `width` on: a linear head reads the first numbers alone."""

    def wrapped(forward):
        inner = network(forward)

        def cut(params, batch, context):
            outputs = inner(params, batch, context)
            hidden = outputs.hidden
            check(width, hidden.shape[-1])
            return dataclasses.replace(outputs, hidden=jnp.where(jnp.arange(hidden.shape[-1]) < width, hidden, 0))

        return cut

    return wrapped
