"""Replay whose buffer is no uniform sample: as many examples of every class, or more of those with a high loss."""

import jax
import jax.numpy as jnp

from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.state import Batch
from ft_jax.incremental.examples import no_answers
from ft_jax.incremental.labels import class_of, labelled
from ft_jax.incremental.replay import rehearsal, rows_like


@register(
    "incremental",
    paper="Chrysakis and Moens 2020, Online continual learning from imbalanced data, ICML, algorithm 1 (CBRS)",
    example=lambda problem: balanced_replay(6, 4, labelled(problem.batch), classes=32, weight=0.05),
    neutral=Neutral({"weight": 0.0}),
)
def balanced_replay(
    capacity: int,
    size: int,
    example: Batch,
    classes: int,
    weight: float = 1.0,
    *,
    name: str = "incremental.balanced_replay",
) -> Method:
    """Replay from a buffer that holds as many examples of every class as the stream allows.

    The term is that of `ft_jax.incremental.replay`. An example enters while there is room. Then, where its class has
    never been the largest (it is not full), it takes the place of one drawn from a largest class, else with probability
    ``m / n`` that of one drawn from its own, with m of its class in the buffer and n seen: a reservoir of each class.
    The class of a sequence of labels is its last one that counts.

    Args:
      capacity, size, example, weight: as in `ft_jax.incremental.replay`.
      classes: how many there are.
      name: the method's name; ``memory[name]`` is ``{"buffer", "seen", "of", "seen_of", "full"}``: the class of every
        slot and, of every class, how many were seen and whether it is full.

    Raises:
      ValueError: a capacity, size or number of classes below 1.
      KeyError: an example without labels; in the first step, a batch that lacks one of its fields.

    Example:
      >>> batch = {"x": jnp.zeros((2, 5)), "labels": jnp.zeros(2, jnp.int32)}
      >>> balanced_replay(10, 4, batch, classes=3).memory(None, None)["seen_of"].shape
      (3,)
    """
    if classes < 1:
        raise ValueError(f"{name} has {classes} classes; give at least 1")
    like = rows_like(example)
    if "labels" not in like:
        raise KeyError(f"{name} balances classes, and the batch has no 'labels' but {', '.join(like)}; add them")
    more = {
        "of": jnp.full(capacity, -1, jnp.int32),
        "seen_of": jnp.zeros(classes, jnp.int32),
        "full": jnp.zeros(classes, bool),
    }

    def admit(memory, batch, event, numbers):
        labels = class_of(batch)
        keys = jax.random.split(event.key, labels.shape[0])

        def one(memory, row):
            entry, label, key = row
            counts = jnp.zeros(classes, jnp.int32).at[memory["of"]].add(memory["of"] >= 0, mode="drop")
            room = memory["seen"] < capacity
            largest = counts == jnp.max(counts)
            full = jnp.where(room, memory["full"], memory["full"] | largest)
            seen_of = memory["seen_of"].at[label].add(1)
            own = full[label]
            draw_slot, draw_enter = jax.random.split(key)
            victims = jnp.where(own, memory["of"] == label, largest[memory["of"]])
            enters = ~own | (jax.random.uniform(draw_enter) * seen_of[label] <= counts[label])
            victim = jax.random.categorical(draw_slot, jnp.where(victims, 0.0, -jnp.inf))
            slot = jnp.where(room, memory["seen"], jnp.where(enters, victim, capacity))
            slot = jnp.where(label >= 0, slot, capacity)
            buffer = jax.tree.map(
                lambda old, new: old.at[slot].set(new.astype(old.dtype), mode="drop"), memory["buffer"], entry
            )
            new = {
                "buffer": buffer,
                "seen": jnp.minimum(memory["seen"], 2**30) + 1,
                "of": memory["of"].at[slot].set(label, mode="drop"),
                "seen_of": seen_of,
                "full": full,
            }
            return jax.tree.map(lambda new, old: jnp.where(label >= 0, new, old), new, memory), None

        return jax.lax.scan(one, memory, (batch, labels, keys))[0]

    return rehearsal(name, capacity, size, like, weight, admit, more, reads="examples")


@register(
    "incremental",
    paper="Efraimidis and Spirakis 2006, Weighted random sampling with a reservoir (A-Res), with losses as weights",
    example=lambda problem: replay_by_loss(6, 4, problem.batch, weight=0.05),
    neutral=Neutral({"weight": 0.0}),
)
def replay_by_loss(
    capacity: int,
    size: int,
    example: Batch,
    power: float = 1.0,
    weight: float = 1.0,
    *,
    name: str = "incremental.replay_by_loss",
) -> Method:
    """Replay from a buffer that prefers examples on which the model was wrong when they came.

    The term is that of `ft_jax.incremental.replay`. An example of loss ``l`` gets the key ``log(u) / l^power``, u
    uniform from 0 to 1, and the buffer holds those with the largest keys: a sample without replacement in which, of
    what is left, each is drawn with a probability proportional to ``l^power``. Power 0 is the uniform reservoir. The
    loss is the cross-entropy of the answer before the step; of tokens it is their weighted mean.

    Args:
      capacity, size, example, weight: as in `ft_jax.incremental.replay`.
      power: how strongly the loss decides.
      name: the method's name; ``memory[name]`` is ``{"buffer", "seen", "keys" [capacity]}``, the largest key
        first.

    Raises:
      ValueError: a capacity or size below 1; in the first step, a model whose answers are no logits of the labels.
      KeyError: in the first step, a batch that lacks a field of `example`.

    Example:
      >>> batch = {"x": jnp.zeros((2, 5)), "labels": jnp.zeros(2, jnp.int32)}
      >>> replay_by_loss(10, 4, batch).memory(None, None)["keys"].shape
      (10,)
    """
    like = rows_like(example)

    def admit(memory, batch, event, numbers):
        losses, counts = _losses(batch, event.predictions, name)
        draws = jax.random.uniform(event.key, losses.shape, minval=jnp.finfo(jnp.float32).tiny)
        keys = jnp.log(draws) / jnp.maximum(losses, 1e-6) ** numbers["power"]
        keys = jnp.concatenate([memory["keys"], jnp.where(counts, keys, -jnp.inf)])
        best, places = jax.lax.top_k(keys, capacity)
        buffer = jax.tree.map(
            lambda old, new: jnp.concatenate([old, new.astype(old.dtype)])[places], memory["buffer"], batch
        )
        seen = jnp.minimum(memory["seen"], 2**30) + jnp.sum(counts, dtype=jnp.int32)
        return {**memory, "buffer": buffer, "seen": seen, "keys": best}

    more = {"keys": jnp.full(capacity, -jnp.inf)}
    return rehearsal(
        name,
        capacity,
        size,
        like,
        weight,
        admit,
        more,
        hyper={"power": power},
        reads="examples",
        refuses=no_answers(name),
    )


def _losses(batch, logits, name):
    """The loss of every example, and which of them count."""
    labels = batch.get("labels")
    if labels is None or logits is None or jnp.shape(logits)[:-1] != labels.shape:
        found = "none" if logits is None else f"predictions {jnp.shape(logits)}"
        raise ValueError(
            f"{name} ranks examples by the logits of their labels, and the model gives {found}; use replay"
        )
    rows = labels.shape[0]
    log = jax.nn.log_softmax(logits.astype(jnp.float32))
    each = -jnp.take_along_axis(log, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0].reshape(rows, -1)
    weights = jnp.broadcast_to(batch.get("weights", jnp.ones(labels.shape)).reshape(rows, -1), each.shape)
    weights = jnp.where(labels.reshape(rows, -1) >= 0, weights, 0.0)
    total = jnp.sum(weights, axis=1)
    return jnp.sum(weights * each, axis=1) / jnp.where(total > 0, total, 1.0), total > 0
