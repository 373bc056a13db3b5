"""Domains with the same distribution, as seen by kernels."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.transfer.domains import aligned, both_domains, check_on
from ft_jax.transfer.unlabelled import LAYOUT, adding, beside_itself, without_unlabelled

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


@register(
    "transfer",
    paper="Long et al. 2015, arXiv:1502.02791, equation 2; Gretton et al. 2012, JMLR 13, equation 5",
    example=lambda problem: mmd(problem.apply),
    needs=("unlabelled",),
    batch=beside_itself,
    neutral=Neutral({"weight": 0.0}, batch=without_unlabelled),
)
def mmd(
    apply: Callable,
    weight: float = 1.0,
    bandwidths: tuple[float, ...] = BANDWIDTHS,
    on: str = "hidden",
    *,
    name: str = "transfer.mmd",
) -> Method:
    """Representations of the labelled and of the unlabelled domain get a small maximum mean discrepancy.

    Adds ``weight · (mean k(s, s') + mean k(t, t') - 2 mean k(s, t))`` over all pairs of the batch's source ``s`` and
    target ``t`` representations, with ``k(x, y) = mean_b exp(-|x - y|² / (b · mean |x - y|²))``, ``b`` in
    `bandwidths` and the mean squared distance, over all pairs of different examples, taken as a constant. The
    pairs are those of all devices and micro-batches. Batches without an unlabelled part are evaluated without it.

    Args:
      apply: the model's, ``(params, batch, key) -> Outputs``.
      weight: λ in the paper; data in ``hyper``.
      bandwidths: of the Gaussian kernels, as multiples of the mean squared distance.
      on: ``"hidden"``, what the head reads, or ``"logits"``.
      name: the method's name.

    Raises:
      KeyError: while training on a batch without an unlabelled part.
      ValueError: no bandwidth, one that is not above 0, or another `on`.

    Example:
      >>> from ft_jax.core import Outputs
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> mmd(apply, weight=0.5, bandwidths=(1.0,)).hyper
      {'weight': 0.5}
    """
    check_on(on, name)
    bandwidths = tuple(bandwidths)
    if not bandwidths or min(bandwidths) <= 0:
        raise ValueError(f"{name} has bandwidths {bandwidths}; give it at least one, all above 0")

    def value(params, batch, outputs, context):
        domains = both_domains(apply, params, batch, outputs, context, name, on)
        apart = functools.partial(discrepancy, bandwidths=bandwidths)
        return context.hyper[name]["weight"] * aligned(context, apart, domains)

    loss = adding(name, value, in_evaluation=True)
    return Method(name=name, hyper={"weight": weight}, loss=loss, gives=LAYOUT)


def discrepancy(source, target, bandwidths: tuple[float, ...] = BANDWIDTHS) -> Float[Array, ""]:
    """The squared maximum mean discrepancy of two weighted samples, see `mmd`.

    Args:
      source, target: ``(rows [n, width], weight of each row [n])``.
      bandwidths: of the Gaussian kernels.

    Example:
      >>> one = (jnp.array([[0.0], [1.0]]), jnp.ones(2))
      >>> round(float(discrepancy(one, one)), 6)
      0.0
    """
    rows = jnp.concatenate([source[0], target[0]])
    counts = [weights / jnp.maximum(jnp.sum(weights), 1e-9) for _, weights in (source, target)]
    signed = jnp.concatenate([counts[0], -counts[1]])
    squares = jnp.sum(jnp.square(rows), axis=1)
    distances = jnp.maximum(squares[:, None] + squares[None, :] - 2 * rows @ rows.T, 0.0)
    kept = (jnp.concatenate([source[1], target[1]]) > 0).astype(jnp.float32)
    pairs = kept[:, None] * kept[None, :] * (1 - jnp.eye(len(kept)))
    scale = jax.lax.stop_gradient(jnp.sum(pairs * distances) / jnp.maximum(jnp.sum(pairs), 1.0))
    scaled = distances / jnp.maximum(scale, 1e-12)
    kernel = sum(jnp.exp(-scaled / bandwidth) for bandwidth in bandwidths) / len(bandwidths)
    return signed @ kernel @ signed
