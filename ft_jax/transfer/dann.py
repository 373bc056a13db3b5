"""Representations from which the domain can't be told."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.outputs import pooled
from ft_jax.core.state import Batch
from ft_jax.core.weights import matmul
from ft_jax.transfer.domains import both_domains
from ft_jax.transfer.unlabelled import LAYOUT, adding, beside_itself, plain, without_unlabelled


@register(
    "transfer",
    paper="Ganin et al. 2015, arXiv:1505.07818, equations 9 to 14 and section 5.2.2",
    example=lambda problem: dann(problem.apply, problem.batch, steps=20, hidden=8),
    needs=("unlabelled",),
    batch=beside_itself,
    neutral=Neutral({"strength": 0.0}, batch=without_unlabelled),
)
def dann(
    apply: Callable,
    example: Batch,
    steps: float,
    strength: float = 1.0,
    gamma: float = 10.0,
    hidden: int = 128,
    *,
    name: str = "transfer.dann",
) -> Method:
    """A domain classifier learns to tell the domains apart, and the model, by its reversed gradient, to prevent it.

    Adds ``mean_s -log(1 - d(r(s))) + mean_t -log d(r(t))`` over the labelled (source) and the unlabelled (target)
    examples, with ``d`` a classifier of one hidden layer on the representations and ``r`` the gradient reversal: the
    identity whose gradient is multiplied by ``-reversal``. ``reversal = strength · (2 / (1 + exp(-gamma · p)) - 1)``
    grows with the progress ``p = min(step / steps, 1)``, so that a young classifier doesn't disturb. Rows whose
    weights are all 0 add nothing. Evaluation of batches without an unlabelled part leaves the term out.

    Args:
      apply: the model's, ``(params, batch, key) -> Outputs``.
      example: one batch; its shapes say how wide the representations are.
      steps: over which the reversal grows, data in ``hyper`` as are all numbers here.
      strength: the reversal's at the end; 0 trains the classifier beside the model and changes nothing.
      gamma: how steeply it grows; 10 in the paper.
      hidden: width of the classifier's hidden layer.
      name: the method's name; the classifier learns under ``params[name]``.

    Raises:
      KeyError: while training on a batch without an unlabelled part.
      ValueError: a number of steps that is not above 0.

    Example:
      >>> from ft_jax.core import Outputs
      >>> apply = lambda params, batch, key=None: Outputs(batch["x"] @ params["w"])
      >>> dann(apply, {}, steps=1000).hyper
      {'steps': 1000, 'strength': 1.0, 'gamma': 10.0}
    """
    if steps <= 0:
        raise ValueError(f"{name} grows over {steps} steps; give it a number above 0")
    fields = {field: x for field, x in example.items() if field != "unlabelled"}

    def surgery(params, key):
        rows = plain(fields)
        width = jax.eval_shape(lambda model: pooled(apply(model, rows, None), rows), params["model"]).shape[1]
        return {**params, name: classifier(width, hidden, key)}

    def value(params, batch, outputs, context):
        domains = both_domains(apply, params, batch, outputs, context, name)
        numbers, own = context.hyper[name], context.join(params)[name]
        reversal = numbers["strength"] * growth(context.step / numbers["steps"], numbers["gamma"])
        total = jnp.float32(0)
        for sign, (x, counts) in zip((-1.0, 1.0), domains, strict=True):
            logits = domain_logits(own, reverse_gradient(x, reversal))
            total += jnp.mean(counts * jax.nn.softplus(-sign * logits))
        return total

    loss = adding(name, value, in_evaluation=True)
    hyper = {"steps": steps, "strength": strength, "gamma": gamma}
    return Method(name=name, hyper=hyper, surgery=surgery, loss=loss, gives=LAYOUT)


def growth(progress: Array, gamma: Array) -> Array:
    """``2 / (1 + exp(-gamma · p)) - 1`` for a progress ``p`` clipped to 0 and 1.

    Example:
      >>> [round(float(growth(jnp.float32(p), 10.0)), 3) for p in (0.0, 0.1, 1.0)]
      [0.0, 0.462, 1.0]
    """
    return 2 / (1 + jnp.exp(-gamma * jnp.clip(progress, 0.0, 1.0))) - 1


@jax.custom_vjp
def reverse_gradient(x: Array, strength: Array) -> Array:
    """`x`, with its gradient multiplied by ``-strength``.

    Example:
      >>> float(jax.grad(lambda x: 3 * reverse_gradient(x, 0.5))(1.0))
      -1.5
    """
    return x


def _reversed_forward(x, strength):
    return x, strength


def _reversed_backward(strength, cotangent):
    return -strength * cotangent, jnp.zeros_like(strength)


reverse_gradient.defvjp(_reversed_forward, _reversed_backward)


def classifier(width: int, hidden: int, key: jax.Array) -> dict:
    """The domain classifier's parameters: two layers, each drawn from ``N(0, 1 / inputs)``, biases zero."""
    draw = functools.partial(jax.random.normal, dtype=jnp.float32)
    first, last = jax.random.split(key)
    return {
        "hidden": {"kernel": draw(first, (width, hidden)) * width**-0.5, "bias": jnp.zeros(hidden)},
        "output": {"kernel": draw(last, (hidden, 1)) * hidden**-0.5, "bias": jnp.zeros(1)},
    }


def domain_logits(params: dict, x: Array) -> Array:
    """How much likelier the target domain is than the source, in nats, ``[batch]``."""
    inner = jax.nn.relu(matmul(params["hidden"]["kernel"], x, params["hidden"]["bias"]))
    return matmul(params["output"]["kernel"], inner, params["output"]["bias"])[:, 0]
