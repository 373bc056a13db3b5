"""Adaptation at test time: predictions made surer on inputs without labels."""

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import register
from ft_jax.core.losses import divergence, scale_term
from ft_jax.core.method import Method


@register(
    "adaptive",
    paper="Wang et al. 2021, arXiv:2006.10726, section 3; filter and recovery of Niu et al. 2023, arXiv:2302.12400, "
    "equation 2 and section 4",
    example=lambda problem: tent(margin=0.999, recover=0.01),
    neutral="its loss is the entropy of predictions in the place of the task's, at every value",
)
def tent(
    margin: float | None = 0.4,
    recover: float | None = 0.2,
    momentum: float = 0.9,
    *,
    term: str = "task",
    name: str = "adaptive.tent",
) -> Method:
    """TENT: a trained model adapts to a shifted stream by minimising the entropy of its own predictions.

    The loss is the mean of ``1[H < margin · log classes] · H`` over what counts in the batch, ``H`` a prediction's
    entropy in nats: the paper's with ``margin=None``, and SAR's filter of unreliable examples otherwise (those left out
    count as 0 in the mean). The task's `term` is left out, so labels are not read. It is meant for the norms alone,
    ``compose(tent(), norm_tuning(head=()))``, and over ``adaptive.sam(rho=0.05)`` for SAR whole. Where the moving
    average of a step's mean entropy falls below `recover`, what learns becomes what it was at the beginning and the
    optimizer's moments are 0: a model that has collapsed to one class starts again.

    Args:
      margin: share of ``log classes``; data in ``hyper`` where it is given.
      recover: nats; SAR takes 0.2 for 1,000 classes. None for no recovery.
      momentum: of the average.
      term: of the loss inside, left out.
      name: the method's name; the metrics report ``name.recovered``, how often.

    Raises:
      ValueError: a margin, recovery or momentum that can't be; in training, a model without a head.

    Example:
      >>> tent().hyper
      {'margin': 0.4, 'recover': 0.2}
    """
    if margin is not None and not 0 < margin <= 1:
        raise ValueError(f"{name} has margin {margin}; give a share of log classes above 0 and at most 1, or None")
    if not 0 <= momentum < 1 or (recover is not None and recover < 0):
        raise ValueError(
            f"{name} has recover {recover} and momentum {momentum}; give nats of at least 0, and a momentum from 0 to "
            "below 1"
        )
    hyper = {} if margin is None else {"margin": margin}
    hyper |= {} if recover is None else {"recover": recover}

    def memory(params, key):
        if recover is None:
            return None
        zero = jnp.float32(0)
        return {"params": jax.tree.map(jnp.copy, params), "average": zero, "steps": zero, "recovered": jnp.int32(0)}

    def loss(inner):
        def surer(params, batch, context):
            terms, outputs = inner(params, batch, context)
            if not context.train:
                return terms, outputs
            if outputs.unembedding is None:
                raise ValueError(f"{name} needs predictions, but the model has no head; give it one")
            numbers = {"margin": jnp.inf, **context.hyper.get(name, {})}
            value = divergence(_entropies, outputs, (), batch, numbers)
            return {**scale_term(terms, term, None), name: value}, outputs

        return surer

    def after_step(state, event):
        own = state.memory[name]
        average = momentum * own["average"] + (1 - momentum) * event.terms[name]
        steps = own["steps"] + 1
        # Without the correction the average begins at 0, below every threshold.
        fallen = average / (1 - momentum**steps) < state.hyper[name]["recover"]

        def back(old, new):
            return jnp.where(fallen, old, new)

        params = jax.tree.map(back, own["params"], state.params)
        moments = jax.tree.map(lambda x: back(jnp.zeros_like(x), x) if _is_moment(x) else x, state.opt_state)
        told = {"average": back(0.0, average), "steps": back(0.0, steps), "params": own["params"]}
        state = state.replace(params=params, opt_state=moments)
        return state.remember(name, {**told, "recovered": own["recovered"] + fallen.astype(jnp.int32)})

    more = {} if recover is None else {"memory": memory, "after_step": after_step}
    if recover is not None:
        more["report"] = lambda state: {f"{name}.recovered": state.memory[name]["recovered"]}
    return Method(name=name, hyper=hyper, loss=loss, drops=(term,), reads="examples", **more)


def _entropies(logits, _, numbers):
    logs = jax.nn.log_softmax(logits)
    found = -jnp.sum(jnp.exp(logs) * logs, axis=-1)
    # A margin of all of log classes keeps everything, rounding or not.
    least = numbers["margin"] * jnp.log(logits.shape[-1]) * (1 + 1e-6)
    return jnp.where(jax.lax.stop_gradient(found) < least, found, 0.0)


def _is_moment(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)
