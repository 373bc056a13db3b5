"""Chosen and rejected answers through one forward pass, and methods made of a loss of such pairs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.batches import SHARES, named, weighted_mean
from ft_jax.core.losses import scale_term, token_log_probabilities
from ft_jax.core.method import Method
from ft_jax.core.outputs import TOLD, Outputs
from ft_jax.rl.pair_losses import Numbers, Pair

OWN_WEIGHTS = "pair_weights"
"""The field of a joined batch with each answer's own weights; the rejected answers' ``weights`` are 0."""

POLICY, REFERENCE = "rl.pairs/policy", "rl.pairs/reference"
"""States in which a loss leaves the answers' log-probabilities to those outside of it."""


def preference(
    name: str,
    value: Callable[[Pair, Numbers], Float[Array, " pairs"]],
    numbers: Mapping[str, float],
    *,
    weight: float,
    likelihood: float | None,
    term: str,
    reference: str | None = None,
    mean: bool = False,
    couples: bool = False,
) -> Method:
    """A method that adds ``weight · mean(value(pair))``.

    Several of these compose: the outermost joins the two sides, the innermost forms the log-probabilities, and all
    use them.

    Args:
      name: of the method and its term.
      value: a loss of `ft_jax.rl.pair_losses`.
      numbers: that it reads, with ``beta`` among them.
      weight: of the term.
      likelihood: multiplies the term `term` of the loss inside, None takes it out.
      term: the chosen answers' mean cross-entropy.
      reference: ``"start"`` is a snapshot of what learns; ``"given"`` the batch's field ``reference`` of each side, or
        what a preference loss inside this one has computed; None for a loss without one.
      mean: rewards, for `margins`, are of mean log-probabilities of a token.
      couples: the loss compares the pairs of a batch.

    Raises:
      ValueError: an unknown `reference`.
    """
    if reference not in ("start", "given", None):
        raise ValueError(f"{name} has reference={reference!r}; use 'start' or 'given'")

    def memory(params, key):
        # Not the same arrays: the step gives its state's buffers away, and one buffer can't be given twice.
        return jax.tree.map(jnp.copy, params)

    def loss(inner):
        def preferred(params, batch, context):
            outermost = OWN_WEIGHTS not in batch
            if outermost and not {"chosen", "rejected"} <= batch.keys():
                if not context.train:
                    return inner(params, batch, context)
                raise KeyError(
                    f"{name} trains on 'chosen' and 'rejected', but the batch has {named(batch)}; give it pairs"
                )
            both = joined(batch["chosen"], batch["rejected"], name) if outermost else batch
            own, pairs = context.hyper[name], both[OWN_WEIGHTS].shape[0] // 2
            terms, outputs = inner(params, both, context)
            states = dict(outputs.states)
            states[POLICY] = states[POLICY] if POLICY in states else answer_log_probabilities(outputs, both)
            if reference is not None and REFERENCE not in states:
                states[REFERENCE] = jax.lax.stop_gradient(referred(inner, both, context))
            pair = pair_of(states, both, reference is not None)
            per_pair = value(pair, own)
            if couples:
                per_pair = context.couple(
                    lambda own_rows, everyone, start, numbers, aligned, all_aligned: _everyones(
                        value, everyone, all_aligned, numbers
                    ),
                    (pair.chosen, pair.rejected),
                    own,
                    (pair.reference_chosen, pair.reference_rejected, pair.chosen_tokens, pair.rejected_tokens),
                )
                added = per_pair
            else:
                # The rejected rows weigh nothing, so this is the mean over the pairs that count.
                added = weighted_mean(jnp.concatenate([per_pair, jnp.zeros(pairs)]), both)
            rewards = own["beta"] * (_per_token(pair) if mean else jnp.stack([pair.chosen_gain, pair.rejected_gain]))
            states |= {f"{name}/chosen": rewards[0], f"{name}/rejected": rewards[1]}
            states |= told_of_pairs(name, rewards[0], rewards[1], pair.chosen_tokens, pair.rejected_tokens)
            outputs = dataclasses.replace(outputs, states=states)
            terms = {**scale_term(terms, term, own.get("sft")), name: own["weight"] * added}
            return terms, chosen_of(outputs, pairs) if outermost else outputs

        return preferred

    def referred(inner, both, context):
        if reference == "given":
            if "reference" not in both:
                raise KeyError(
                    f"{name} has reference='given', but the sides have no field 'reference' [pairs]; compute it with "
                    "ft_jax.rl.with_references, or use reference='start'"
                )
            return both["reference"]
        _, outputs = inner(context.memory[name], both, context.replace(train=False))
        return answer_log_probabilities(outputs, both)

    def refuses(parts):
        scored = next((part.name for part in parts if (part.reads, part.gives) == ("examples", "preferences")), None)
        if scored is not None:
            return f"{name} and {scored} each take a batch of pairs apart, so neither fits into the other; use one"
        place = [part.name for part in parts].index(name)
        other = [part for part in parts if not (part.prepare or part.gives in (None, "examples", "preferences"))]
        never = next((part.name for part in other if part.reads == "examples"), None)
        if never is not None:
            return f"{name} compares answers in pairs, and {never} learns from single examples; use one of them"
        inside = next((part for part in other if part in parts[place + 1 :]), None)
        if inside is None:
            return None
        return (
            f"{name} compares answers in pairs, which {inside.name} inside it takes as {inside.gives}; use one of them"
        )

    hyper = {**numbers, "weight": weight} | ({} if likelihood is None else {"sft": likelihood})
    return Method(
        name=name,
        hyper=hyper,
        memory=memory if reference == "start" else None,
        loss=loss,
        drops=() if "sft" in hyper else (term,),
        gives="preferences",
        refuses=refuses,
    )


def _everyones(value, everyone, aligned, numbers):
    chosen, rejected = everyone
    reference_chosen, reference_rejected, chosen_tokens, rejected_tokens = aligned
    pair = Pair(chosen, rejected, reference_chosen, reference_rejected, chosen_tokens, rejected_tokens)
    counts = (chosen_tokens > 0).astype(jnp.float32)
    return jnp.sum(counts * value(pair, numbers)) / jnp.maximum(jnp.sum(counts), 1.0)


def _per_token(pair: Pair):
    chosen, rejected = (jnp.maximum(tokens, 1.0) for tokens in (pair.chosen_tokens, pair.rejected_tokens))
    return jnp.stack([pair.chosen_gain / chosen, pair.rejected_gain / rejected])


def joined(chosen: Mapping[str, Any], rejected: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Both sides as one batch of twice as many rows, in which the rejected weigh nothing.

    Raises:
      ValueError: labels that are not of tokens, or sides of different shapes or fields.
    """
    for side, fields in (("chosen", chosen), ("rejected", rejected)):
        labels = fields.get("labels")
        if labels is None or labels.ndim != 2:
            found = "no labels" if labels is None else f"labels {list(labels.shape)}"
            raise ValueError(f"{name} needs the labels [pairs, time] of tokens, but {side!r} has {found}; add them")
    stray = sorted((set(chosen) ^ set(rejected)) - {"weights"})
    if stray:
        raise ValueError(f"{name} has {stray[0]!r} on one side only; give chosen and rejected the same fields")
    weights = [fields.get("weights", jnp.ones(fields["labels"].shape)) for fields in (chosen, rejected)]

    def join(one, other):
        if one.shape != other.shape:
            raise ValueError(
                f"{name} has chosen {list(one.shape)} and rejected {list(other.shape)}; pad both to one length"
            )
        return jnp.concatenate([one, other])

    silent = {field: jnp.zeros_like(x) if field in SHARES else x for field, x in rejected.items()}
    # Of twice as many rows, so that the mean over all is that over the chosen.
    loud = {field: 2 * x if field in SHARES else x for field, x in chosen.items()}
    both = jax.tree.map(join, {**loud, "weights": weights[0]}, {**silent, "weights": jnp.zeros_like(weights[1])})
    return {**both, OWN_WEIGHTS: jnp.where(both["labels"] >= 0, jnp.concatenate(weights), 0.0)}


def answer_log_probabilities(outputs: Outputs, batch: Mapping[str, Any]) -> Float[Array, " rows"]:
    """``Σ_t weights · log p(label)`` of each answer of a joined batch."""
    return jnp.sum(batch[OWN_WEIGHTS] * token_log_probabilities(outputs, batch["labels"]), axis=1)


def pair_of(states: Mapping[str, Array], batch: Mapping[str, Any], referred: bool) -> Pair:
    """The pairs of a joined batch, from the log-probabilities in `states`."""
    tokens = jnp.sum(batch[OWN_WEIGHTS] > 0, axis=1).astype(jnp.float32)
    policy = states[POLICY]
    reference = states[REFERENCE] if referred else jnp.zeros_like(policy)
    pairs = policy.shape[0] // 2
    return Pair(*(half for x in (policy, reference, tokens) for half in (x[:pairs], x[pairs:])))


def chosen_of(outputs: Outputs, pairs: int) -> Outputs:
    """The outputs of the chosen answers alone; states of pairs stay."""
    half = lambda x: x[:pairs] if x.ndim and x.shape[0] == 2 * pairs else x  # noqa: E731
    states = {state: x for state, x in outputs.states.items() if state not in (POLICY, REFERENCE)}
    return dataclasses.replace(outputs, hidden=half(outputs.hidden), states=jax.tree.map(half, states))


def margins(outputs: Outputs, name: str = "rl.dpo") -> Float[Array, " pairs"]:
    """How much larger the reward of each chosen answer is than that of the rejected one, in nats.

    Evaluate with ``make_step(..., predict=lambda outputs, batch: margins(outputs))``; the share above 0 is the
    accuracy of the preferences.

    Args:
      outputs: what a loss with a preference method in it returns for a batch of preferences.
      name: the method's name.

    Example:
      >>> states = {"rl.dpo/chosen": jnp.array([0.5]), "rl.dpo/rejected": jnp.array([0.25])}
      >>> margins(Outputs(hidden=jnp.zeros((1, 2)), states=states)).tolist()
      [0.25]
    """
    return outputs.states[f"{name}/chosen"] - outputs.states[f"{name}/rejected"]


EVEN = 1e-4
"""Nats up to which a policy prefers neither answer, which is half right: at the start both gained nothing."""


def told_of_pairs(name: str, chosen, rejected, chosen_tokens, rejected_tokens) -> dict[str, Array]:
    """What a step's metrics say of pairs, NaN where a pair doesn't count, see `ft_jax.core.outputs.TOLD`.

    ``accuracy`` is the share of pairs whose chosen answer has the larger reward, ``margin`` by how much, ``chosen`` and
    ``rejected`` the rewards, ``chosen_length`` and ``rejected_length`` the answers' tokens.
    """
    margin = chosen - rejected
    right = jnp.where(jnp.abs(margin) <= EVEN, 0.5, (margin > 0).astype(jnp.float32))
    told = {
        "accuracy": right, "margin": margin, "chosen": chosen, "rejected": rejected,
        "chosen_length": chosen_tokens, "rejected_length": rejected_tokens,
    }  # fmt: skip
    counts = (chosen_tokens > 0) & (rejected_tokens > 0)
    return {f"{TOLD}{name}/{what}": jnp.where(counts, rows, jnp.nan) for what, rows in told.items()}


def against_shuffled_words(batch):
    """A problem's batch of examples as pairs: each against its own words in another order; of pairs as it is."""
    if "chosen" in batch:
        return batch
    words = {field: jnp.roll(batch[field], 1, axis=1) for field in ("input_ids", "labels") if field in batch}
    return {"chosen": dict(batch), "rejected": {**batch, **words}}
