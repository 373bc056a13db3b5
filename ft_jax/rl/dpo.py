"""Direct preference optimization."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ft_jax.core.batches import SHARES, named, weighted_mean
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.losses import scale_term, token_log_probabilities
from ft_jax.core.method import Method
from ft_jax.core.outputs import Outputs


def _against_shuffled_words(batch):
    return {"chosen": dict(batch), "rejected": {**batch, "labels": jnp.roll(batch["labels"], 1, axis=1)}}


@register(
    "rl",
    paper="Rafailov et al. 2023, arXiv:2305.18290, equation 7; the sft term is Pang et al. 2024, arXiv:2404.19733",
    needs=("chosen", "rejected"),
    example=lambda problem: dpo(sft=0.0),
    batch=_against_shuffled_words,
    neutral=Neutral({"weight": 0.0, "sft": 1.0}, batch=lambda batch: batch["chosen"]),
)
def dpo(
    beta: float = 0.1, weight: float = 1.0, sft: float | None = None, *, term: str = "task", name: str = "rl.dpo"
) -> Method:
    """Makes chosen answers likelier than rejected ones, relative to a reference policy.

    Adds the term ``weight · mean(-log_sigmoid(reward(chosen) - reward(rejected)))`` with
    ``reward(answer) = beta · (log p(answer) - log p_reference(answer))``, where ``log p(answer)`` is the sum
    of ``weights · log p(label)`` over its tokens. The reference is a snapshot, in memory, of what learns at
    the start, over the same frozen base: with LoRA it costs the size of the adapter.

    The batch is ``{"chosen": fields, "rejected": fields}``, each with ``input_ids``, ``labels`` and
    ``weights`` ``[pairs, time]``, 0 on the prompt. The loss inside is called once on both with the rejected
    answers' weights at 0, so its terms are those of the chosen; outputs and predictions are the chosen's.
    Each pair's rewards are in the outputs' states, see `margins`. Evaluation passes a batch of plain
    examples on to the loss inside.

    Args:
      beta: how far the policy may move from the reference; smaller is freer.
      weight: of the preference term.
      sft: multiplies the term `term` of the loss inside, the chosen answers' mean cross-entropy. None takes the
        term out, and nothing of it is computed; 0 keeps it as a number that can be raised.
      term: the name of that term; terms of methods inside are left as they are.
      name: the method's name; ``memory[name]`` is like the tree that learns.

    Raises:
      KeyError: when training on a batch without ``chosen`` and ``rejected``.
      ValueError: labels that are not of tokens, or sides of different shapes.

    Example:
      >>> dpo(beta=0.3).hyper
      {'beta': 0.3, 'weight': 1.0}
    """

    def memory(params, key):
        # Not the same arrays: the step gives its state's buffers away, and one buffer can't be given twice.
        return jax.tree.map(jnp.copy, params)

    def loss(inner):
        def preferred(params, batch, context):
            if "chosen" not in batch or "rejected" not in batch:
                if not context.train:
                    return inner(params, batch, context)
                raise KeyError(
                    f"{name} trains on 'chosen' and 'rejected', but the batch has {named(batch)}; give it pairs"
                )
            both, weights = _both(batch["chosen"], batch["rejected"], name)
            numbers, pairs = context.hyper[name], weights.shape[0] // 2
            terms, outputs = inner(params, both, context)
            _, reference = inner(context.memory[name], both, context.replace(train=False))
            reference = jax.lax.stop_gradient(reference)
            gains = _log_probabilities(outputs, both, weights) - _log_probabilities(reference, both, weights)
            rewards = numbers["beta"] * gains
            losses = -jax.nn.log_sigmoid(rewards[:pairs] - rewards[pairs:])
            value = weighted_mean(losses, batch["chosen"])
            terms = scale_term(terms, term, numbers.get("sft"))
            own = {f"{name}/chosen": rewards[:pairs], f"{name}/rejected": rewards[pairs:]}
            return {**terms, name: numbers["weight"] * value}, _chosen(outputs, pairs, own)

        return preferred

    hyper = {"beta": beta, "weight": weight} | ({} if sft is None else {"sft": sft})
    return Method(name=name, hyper=hyper, memory=memory, loss=loss, reads="examples", gives="preferences")


def margins(outputs: Outputs, name: str = "rl.dpo") -> Float[Array, " pairs"]:
    """How much larger the reward of each chosen answer is than that of the rejected one, in nats.

    Evaluate with ``make_step(..., predict=lambda outputs, batch: margins(outputs))``; the share above 0 is the
    accuracy of the preferences.

    Args:
      outputs: what a loss with `dpo` in it returns for a batch of preferences.
      name: the method's name.

    Example:
      >>> states = {"rl.dpo/chosen": jnp.array([0.5]), "rl.dpo/rejected": jnp.array([0.25])}
      >>> margins(Outputs(hidden=jnp.zeros((1, 2)), states=states)).tolist()
      [0.25]
    """
    return outputs.states[f"{name}/chosen"] - outputs.states[f"{name}/rejected"]


def _both(chosen, rejected, name):
    """``(both sides in one batch with the rejected weighing nothing, each side's own weights)``."""
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
    return both, jnp.concatenate(weights)


def _log_probabilities(outputs, batch, weights):
    """``Σ_t weights · log p(label)`` of each answer, ``[2 · pairs]``."""
    counted = jnp.where(batch["labels"] >= 0, weights, 0.0)
    return jnp.sum(counted * token_log_probabilities(outputs, batch["labels"]), axis=1)


def _chosen(outputs: Outputs, pairs: int, rewards) -> Outputs:
    half = lambda x: x[:pairs] if x.ndim and x.shape[0] == 2 * pairs else x  # noqa: E731
    states = {**jax.tree.map(half, dict(outputs.states)), **rewards}
    return dataclasses.replace(outputs, hidden=half(outputs.hidden), states=states)
