"""Distillation of logits."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.params import Params
from ft_jax.distillation.teachers import check_temperature, of_logits


@register(
    "distillation",
    paper="Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2",
    example=lambda problem: logits(problem.apply, jax.tree.map(lambda leaf: 1.2 * leaf, problem.params), weight=0.5),
    neutral=Neutral({"weight": 0.0}),
)
def logits(
    apply: Callable,
    params: Params,
    weight: float = 1.0,
    temperature: float = 2.0,
    hard_weight: float | None = 1.0,
    *,
    name: str = "distillation.logits",
) -> Method:
    """Draws the student's softened distribution to a trained teacher's, beside the true labels.

    The loss is ``hard_weight · task + weight · temperature² · KL(teacher || student)``, both distributions
    at ``softmax(logits / temperature)``, averaged over the positions that count (``batch["weights"]``).
    Logits over a vocabulary are made chunk by chunk. The teacher runs without dropout and isn't
    differentiated; its parameters are frozen, held once and shared by all members.

    Args:
      apply: the teacher's ``(params, batch, key) -> Outputs``, of any architecture that reads the student's
        batch and predicts its classes or tokens.
      params: the teacher's parameters.
      weight: of the term under the method's name; data in ``hyper``, as are all numbers here.
      temperature: softens both distributions; the square keeps the gradient's size when it changes.
      hard_weight: of the task's term, named ``"task"``. None takes the term out, and nothing of it is computed: the
        student's logits are made once, for the divergence.
      name: the method's name, under which the teacher's parameters stand.

    Raises:
      ValueError: a temperature that is not positive; at trace time, a teacher whose vocabulary or positions
        differ from the student's.

    Example:
      >>> from ft_jax.core import Outputs, make_step, supervised
      >>> import optax
      >>> def apply(params, batch, key):
      ...     return Outputs(hidden=batch["x"], unembedding=params["w"])
      >>> method = logits(apply, {"w": jnp.eye(2)}, temperature=1.0)
      >>> program = make_step(supervised(apply), optax.sgd(0.1), method)
      >>> state = program.init({"w": jnp.zeros((2, 2))}, jax.random.key(0))
      >>> _, metrics = program.step(state, {"x": jnp.array([[1.0, 0.0]]), "labels": jnp.array([0])})
      >>> round(float(metrics["distillation.logits"]), 4)
      0.1109
    """
    check_temperature(temperature, name)
    hyper = {"temperature": temperature}
    return of_logits(name, apply, params, _softened, hyper, weight, hard_weight)


def _softened(logits, teacher_logits, hyper):
    return softened_divergence(logits, teacher_logits, hyper["temperature"])


def softened_divergence(logits, teacher_logits, temperature):
    """``temperature² · KL(teacher || student)`` of each position, both at ``softmax(logits / temperature)``."""
    log_q = jax.nn.log_softmax(logits / temperature)
    log_p = jax.nn.log_softmax(teacher_logits / temperature)
    return temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
