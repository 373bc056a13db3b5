"""Sources of data drawn by what is still to be learned from them."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ft_jax.adaptive.difficulty import label_losses
from ft_jax.core.batches import counted, named, rows
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method

SOURCE, CHANCE = "source", "chance"
"""Of each example: the number of the source that it was drawn from, and with what probability that source was."""


def _of_three(batch: Mapping[str, Array]) -> dict[str, Array]:
    """The laws' batch as if its examples were of three sources in turn."""
    source = jnp.arange(rows(batch), dtype=jnp.int32) % 3
    return {**batch, SOURCE: source, CHANCE: jnp.array([0.5, 0.3, 0.2])[source]}


@register(
    "adaptive",
    paper="Albalak et al. 2023, arXiv:2312.02406, algorithm 1 (online data mixing); Auer et al. 2002 (Exp3)",
    needs=("labels", SOURCE, CHANCE),
    example=lambda problem: data_mixing(problem.apply, sources=3),
    batch=_of_three,
    neutral="it says what is drawn next, and trains on it as it is",
)
def data_mixing(apply: Callable, sources: int, momentum: float = 0.9, *, name: str = "adaptive.data_mixing") -> Method:
    """Online data mixing: a bandit (Exp3) draws batches from the sources whose loss is large.

    With ``L_i`` the mean loss of a batch's labels of source i, drawn with probability ``π_i``, its reward becomes
    ``R_i ← momentum · R_i + (1 - momentum) · L_i / π_i``; those of other sources stay. After t batches of K sources
    ``ε_t = min(1 / K, √(ln K / (K t)))`` and ``π_i = (1 - K ε_t) · softmax(ε_{t-1} R)_i + ε_t``. The next batch is
    drawn by the ``π`` in ``memory``: `ft_jax.training.own_data.Mixture` does, and tells of each example its ``source``
    and the ``chance`` that it was drawn with, so that a batch drawn ahead is weighed as it was drawn. It takes one
    forward pass without dropout more.

    Args:
      apply: the network, ``(params, batch, key) -> Outputs``.
      sources: K.
      momentum: of the rewards, α in the paper; data in ``hyper``.
      name: the method's name; ``memory[name]`` is ``{"rewards" [K], "chances" [K], "drawn" [K], "turns"}``, of which
        ``drawn`` counts examples. The metrics report ``name.chance_i``.

    Raises:
      ValueError: no source, a momentum outside [0, 1); labels as in `focal`.
      KeyError: when training on a batch without ``labels``, ``source`` or ``chance``.

    Example:
      >>> data_mixing(lambda params, batch, key: None, sources=2).memory(None, None)["chances"].tolist()
      [0.5, 0.5]
    """
    if sources < 1:
        raise ValueError(f"{name} has {sources} sources; give how many the data is drawn from, at least 1")
    if not 0 <= momentum < 1:
        raise ValueError(f"{name} has momentum {momentum}; give a number from 0 to below 1")

    def memory(params, key):
        nothing = jnp.zeros(sources)
        return {"rewards": nothing, "chances": jnp.full(sources, 1 / sources), "drawn": nothing, "turns": jnp.int32(0)}

    def prepare(state, batch, context):
        if not context.train:
            return state, batch
        missing = [field for field in (SOURCE, CHANCE) if field not in batch]
        if missing:
            raise KeyError(
                f"{name} reads {missing[0]!r} of each example, and the batch has {named(batch)}; draw the data by "
                "ft_jax.training.own_data.Mixture"
            )
        outputs = context.replace(train=False).run(apply, state.params, batch)
        found = of_sources(label_losses(outputs, batch, name), counted(batch), batch[SOURCE], batch[CHANCE], sources)
        total, weight, chance, seen = found if context.axis is None else jax.lax.psum(found, context.axis)
        own = state.memory[name]
        turns = own["turns"] + 1
        present = weight > 0
        losses, chances = (x / jnp.where(present, weight, 1.0) for x in (total, chance))
        share = state.hyper[name]["momentum"]
        rewarded = share * own["rewards"] + (1 - share) * losses / jnp.where(chances > 0, chances, 1.0)
        rewards = jnp.where(present, rewarded, own["rewards"])
        kept = {"rewards": rewards, "chances": policy(rewards, turns), "drawn": own["drawn"] + seen, "turns": turns}
        return state.remember(name, kept), batch

    def report(state):
        chances = state.memory[name]["chances"]
        return {f"{name}.chance_{place}": chances[place] for place in range(sources)}

    return Method(
        name=name,
        hyper={"momentum": momentum},
        memory=memory,
        prepare=prepare,
        report=report,
        reads="examples",
        fields=(SOURCE, CHANCE),
    )


def of_sources(
    losses: Float[Array, "batch ..."],
    weights: Float[Array, "batch ..."],
    source: Int[Array, " batch"],
    chance: Float[Array, " batch"],
    count: int,
) -> Float[Array, "4 count"]:
    """Of each source: ``Σ weight · loss``, ``Σ weight``, ``Σ weight · chance``, and how many examples count.

    Example:
      >>> sums = of_sources(jnp.array([1.0, 3.0]), jnp.ones(2), jnp.array([1, 1]), jnp.array([0.25, 0.25]), 2)
      >>> sums.tolist()
      [[0.0, 4.0], [0.0, 2.0], [0.0, 0.5], [0.0, 2.0]]
    """
    flat = weights.reshape(weights.shape[0], -1)
    total = jnp.sum(jnp.where(flat > 0, flat * losses.reshape(flat.shape), 0.0), axis=1)
    weight = jnp.sum(flat, axis=1)
    per_row = jnp.stack([total, weight, weight * chance, (weight > 0).astype(jnp.float32)])
    return per_row @ jax.nn.one_hot(source, count)


def policy(rewards: Float[Array, " sources"], turns: Int[Array, ""]) -> Float[Array, " sources"]:
    """The chance of each source after so many turns.

    Example:
      >>> [round(float(x), 3) for x in policy(jnp.array([0.0, 40.0]), jnp.int32(100))]  # ε₁₀₀ is 0.059
      [0.135, 0.865]
    """
    count = len(rewards)

    def epsilon(turn):
        return jnp.minimum(1 / count, jnp.sqrt(jnp.log(count) / (count * jnp.maximum(turn, 1))))

    least = epsilon(turns)
    return (1 - count * least) * jax.nn.softmax(epsilon(turns - 1) * rewards) + least
