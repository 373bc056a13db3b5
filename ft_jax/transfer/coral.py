"""Domains with the same covariance."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.transfer.domains import both_domains, check_on, gathered
from ft_jax.transfer.unlabelled import LAYOUT, adding, beside_itself, without_unlabelled


@register(
    "transfer",
    paper="Sun and Saenko 2016, arXiv:1607.01719, equations 1 to 3",
    kind=("loss",),
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
      >>> coral(None, weight=10.0).couples
      True
    """
    check_on(on, name)

    def value(params, batch, outputs, context):
        domains = both_domains(apply, params, batch, outputs, context, name, on)
        source, target = (covariance(*gathered(domain, context.axis)) for domain in domains)
        return context.hyper[name]["weight"] * jnp.sum(jnp.square(source - target)) / (4 * source.shape[0] ** 2)

    loss = adding(name, value, in_evaluation=True)
    return Method(name=name, hyper={"weight": weight}, loss=loss, gives=LAYOUT, couples=True)


def covariance(x: Float[Array, "batch width"], counts: Float[Array, " batch"]) -> Float[Array, "width width"]:
    """``(x.T x - (Σ x)(Σ x).T / n) / (n - 1)`` over the ``n`` rows that count.

    Example:
      >>> covariance(jnp.array([[1.0], [3.0], [9.0]]), jnp.array([1.0, 1.0, 0.0])).tolist()
      [[2.0]]
    """
    n = jnp.sum(counts)
    centred = (x - counts @ x / jnp.maximum(n, 1.0)) * counts[:, None]
    return centred.T @ centred / jnp.maximum(n - 1, 1.0)
