"""Domains with the same covariance."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.transfer.domains import Domain, aligned, both_domains, check_on
from ft_jax.transfer.unlabelled import LAYOUT, adding, beside_itself, without_unlabelled


@register(
    "transfer",
    paper="Sun and Saenko 2016, arXiv:1607.01719, equations 1 to 3",
    example=lambda problem: coral(problem.apply),
    needs=("unlabelled",),
    batch=beside_itself,
    neutral=Neutral({"weight": 0.0}, batch=without_unlabelled),
)
def coral(apply: Callable, weight: float = 1.0, on: str = "hidden", *, name: str = "transfer.coral") -> Method:
    """Deep CORAL: representations of the labelled and of the unlabelled domain get the same covariance.

    Adds ``weight · ||C_s - C_t||²_F / (4 d²)`` with ``C`` the covariance ``[d, d]`` of each domain's representations
    in the batch, that of ``batch["unlabelled"]`` being the target. Under pmap the covariances are those of all
    devices' examples. Evaluation of batches without an unlabelled part leaves the term out.

    Args:
      apply: the model's, ``(params, batch, key) -> Outputs``.
      weight: λ in the paper, where it is set so that both losses are of one size at the end; data in ``hyper``.
      on: ``"hidden"``, what the head reads, or ``"logits"``, as in the paper.
      name: the method's name.

    Raises:
      KeyError: while training on a batch without an unlabelled part.
      ValueError: another `on`.

    Example:
      >>> from ft_jax.core import Outputs
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> coral(apply, weight=10.0)
      Method('transfer.coral', weight=10)
    """
    check_on(on, name)

    def value(params, batch, outputs, context):
        domains = both_domains(apply, params, batch, outputs, context, name, on)
        return context.hyper[name]["weight"] * aligned(context, covariance_gap, domains)

    loss = adding(name, value, in_evaluation=True)
    return Method(name=name, hyper={"weight": weight}, loss=loss, gives=LAYOUT)


def covariance_gap(source: Domain, target: Domain) -> Float[Array, ""]:
    """``||C_s - C_t||²_F / (4 d²)``, equation 1 of the paper.

    Example:
      >>> one = (jnp.array([[1.0], [3.0]]), jnp.ones(2))
      >>> float(covariance_gap(one, one))
      0.0
    """
    apart = covariance(*source) - covariance(*target)
    return jnp.sum(jnp.square(apart)) / (4 * apart.shape[0] ** 2)


def covariance(x: Float[Array, "batch width"], counts: Float[Array, " batch"]) -> Float[Array, "width width"]:
    """``(x.T x - (Σ x)(Σ x).T / n) / (n - 1)`` over the ``n`` rows that count.

    Example:
      >>> covariance(jnp.array([[1.0], [3.0], [9.0]]), jnp.array([1.0, 1.0, 0.0])).tolist()
      [[2.0]]
    """
    counts = (counts > 0).astype(jnp.float32)
    n = jnp.sum(counts)
    centred = (x - counts @ x / jnp.maximum(n, 1.0)) * counts[:, None]
    return centred.T @ centred / jnp.maximum(n - 1, 1.0)
