"""Kahneman–Tversky optimization: answers that are good or bad by themselves."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ft_jax.core.batches import example_weights, weighted_mean
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.losses import scale_term, token_log_probabilities
from ft_jax.core.method import Method
from ft_jax.core.outputs import TOLD
from ft_jax.rl.sources import only_source


def _judged(batch):
    rows = jnp.arange(batch["labels"].shape[0])
    other = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), dict(batch))
    return {**batch, "desirable": (rows % 2).astype(jnp.float32), "mismatched": other}


@register(
    "rl",
    paper="Ethayarajh et al. 2024, arXiv:2402.01306, equations 7 and 8",
    needs=("desirable", "mismatched"),
    example=lambda problem: kto(problem.apply, sft=0.0),
    batch=_judged,
    neutral=Neutral({"weight": 0.0, "sft": 1.0}),
)
def kto(
    apply: Callable,
    beta: float = 0.1,
    weight: float = 1.0,
    sft: float | None = None,
    *,
    desirable: float = 1.0,
    undesirable: float = 1.0,
    divergence: bool = True,
    reference: str = "start",
    term: str = "task",
    name: str = "rl.kto",
) -> Method:
    """Makes answers likelier or less likely by whether each is desirable, without pairs.

    Adds ``weight · mean(desirable · (1 - σ(beta · (gain - z))))`` over the desirable answers and ``undesirable · (1 -
    σ(beta · (z - gain)))`` over the others, with ``gain = log p(answer) - log p_reference(answer)``. ``z`` is the
    divergence of the policy from the reference, ``max(0, mean gain)`` of answers beside prompts that they do not belong
    to, over the whole batch and without a gradient.

    The batch is of examples, ``input_ids``, ``labels`` and ``weights`` ``[batch, time]``, with ``desirable``
    ``[batch]`` (1 or 0) and the part ``mismatched`` with such fields of each prompt beside another's answer; see
    `ft_jax.data.judgements`.

    Args:
      apply: the model's forward function.
      beta: how far the policy may move.
      weight: of the term.
      sft: as in `ft_jax.rl.dpo`, over all answers.
      desirable, undesirable: weights of the two kinds.
      divergence: False takes ``z`` as 0 and needs no ``mismatched``: APO-zero without pairs (D'Oosterlinck et al. 2024,
        arXiv:2408.06266).
      reference: ``"start"`` or ``"given"``, as in `ft_jax.rl.dpo`; given, ``mismatched`` has a ``reference`` too.
      term, name: as in `ft_jax.rl.dpo`.

    Raises:
      KeyError: when training on a batch without ``desirable`` or ``mismatched``.
      ValueError: an unknown `reference`.

    Example:
      >>> kto(lambda params, batch, key: None, beta=0.2).hyper["beta"]
      0.2
    """
    if reference not in ("start", "given"):
        raise ValueError(f"{name} has reference={reference!r}; use 'start' or 'given'")

    def memory(params, key):
        return jax.tree.map(jnp.copy, params)

    def answers(outputs, batch):
        weights = batch.get("weights", jnp.ones(batch["labels"].shape))
        counted = jnp.where(batch["labels"] >= 0, weights, 0.0)
        return jnp.sum(counted * token_log_probabilities(outputs, batch["labels"]), axis=1)

    def gains(context, params, batch):
        plain = context.replace(train=False)
        own = answers(plain.run(apply, params, batch), batch)
        if reference == "given":
            return own - batch["reference"]
        return own - answers(plain.run(apply, context.memory[name], batch), batch)

    def prepare(state, batch, context):
        if "desirable" not in batch:
            if not context.train:
                return state, batch
            raise KeyError(f"{name} trains on answers that are 'desirable' (1 or 0), but the batch has none; add them")
        batch = dict(batch)
        other = batch.pop("mismatched", None)
        if not divergence:
            return state, {**batch, "divergence": jnp.zeros(batch["desirable"].shape)}
        if other is None:
            raise KeyError(
                f"{name} measures its divergence on the part 'mismatched', but the batch has none; see "
                "ft_jax.data.judgements, or set divergence=False"
            )
        own = batch.get("weights")
        counts = jnp.ones(own.shape[0]) if own is None else jnp.any(own.reshape(own.shape[0], -1) > 0, axis=1)
        total, count = jnp.sum(counts * gains(context, state.params, other)), jnp.sum(counts)
        if context.axis is not None:
            total, count = jax.lax.psum((total, count), context.axis)
        z = jax.lax.stop_gradient(jnp.maximum(total / jnp.maximum(count, 1), 0.0))
        return state, {**batch, "divergence": jnp.full(batch["desirable"].shape, z)}

    def loss(inner):
        def prospect(params, batch, context):
            terms, outputs = inner(params, batch, context)
            if "divergence" not in batch:
                return terms, outputs
            numbers = context.hyper[name]
            own = answers(outputs, batch)
            if reference == "given":
                known = batch["reference"]
            else:
                _, frozen = inner(context.memory[name], batch, context.replace(train=False))
                known = jax.lax.stop_gradient(answers(frozen, batch))
            apart = numbers["beta"] * (own - known - batch["divergence"])
            good, bad = jax.nn.sigmoid(-apart), jax.nn.sigmoid(apart)
            per_answer = jnp.where(batch["desirable"] > 0, numbers["desirable"] * good, numbers["undesirable"] * bad)
            terms = scale_term(terms, term, numbers.get("sft"))
            reward, wanted = numbers["beta"] * (own - known), batch["desirable"] > 0
            counts = example_weights(batch) > 0
            told = {
                "kl": jnp.where(counts, batch["divergence"], jnp.nan),
                "desirable": jnp.where(counts & wanted, reward, jnp.nan),
                "undesirable": jnp.where(counts & ~wanted, reward, jnp.nan),
            }
            states = {**outputs.states, **{f"{TOLD}{name}/{what}": rows for what, rows in told.items()}}
            outputs = dataclasses.replace(outputs, states=states)
            return {**terms, name: numbers["weight"] * weighted_mean(per_answer, batch)}, outputs

        return prospect

    hyper = {"beta": beta, "weight": weight, "desirable": desirable, "undesirable": undesirable}
    return Method(
        name=name,
        hyper=hyper | ({} if sft is None else {"sft": sft}),
        memory=memory if reference == "start" else None,
        prepare=prepare,
        loss=loss,
        drops=(term,) if sft is None else (),
        reads="examples",
        gives="judgements",
        refuses=only_source(name, "judgements"),
    )
