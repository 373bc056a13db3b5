"""Distillation from a teacher with another tokenizer."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ft_jax.core.batches import named, shares
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.losses import chunk_sizes, chunked_mean, token_log_probabilities
from ft_jax.core.method import Method
from ft_jax.core.outputs import Outputs, logits_of, real_tokens
from ft_jax.core.params import Params, never
from ft_jax.core.state import Batch
from ft_jax.core.weights import shape
from ft_jax.data.alignment import GROUPS, TAUGHT
from ft_jax.distillation.divergences import kl, mixture
from ft_jax.distillation.teachers import beside_task, holding, taught
from ft_jax.distillation.wasserstein import wasserstein

MERGES = ("observed", "bayesian")

STEPS = 16
"""Time steps of a chunk at most: chunks in which nothing counts are left out."""


def _written_otherwise(batch: Mapping[str, Array]) -> dict[str, Array]:
    """The laws' batch with a teacher's tokens beside it, of which 1, 2 and 3 stand for 2, 1 and 3 of the student's."""
    ids = (batch["input_ids"] + 5) % 32
    groups = (
        jnp.broadcast_to(jnp.array(row, jnp.int32), ids.shape) for row in ((1, 1, 2, 3, 3, 3), (1, 2, 2, 3, 3, 3))
    )
    own, theirs = (jnp.where(batch["labels"] >= 0, one, 0) for one in groups)
    part = {"input_ids": ids, "labels": (batch["labels"] + 5) % 32, "attention_mask": batch["attention_mask"]}
    return {**batch, GROUPS: own, TAUGHT: {**part, GROUPS: theirs}}


@register(
    "distillation",
    paper="Boizard et al. 2024, arXiv:2402.12030, equation 4; aligned and hybrid as GOLD in trl",
    example=lambda problem: uld(
        problem.apply,
        jax.tree.map(lambda leaf: 1.2 * leaf, problem.params),
        weight=0.5,
        common=(tuple(range(0, 24)), tuple(range(5, 29))),
    ),
    needs=(GROUPS, TAUGHT),
    batch=_written_otherwise,
    neutral=Neutral({"weight": 0.0}),
)
def uld(
    apply: Callable,
    params: Params,
    weight: float = 1.0,
    hard_weight: float | None = 1.0,
    *,
    common: Any = None,
    beta: float = 0.5,
    matched: float | None = None,
    unmatched: float | None = None,
    merge: str = "observed",
    top: int | None = None,
    name: str = "distillation.uld",
) -> Method:
    """Draws the student to a teacher that has another tokenizer (universal logit distillation).

    Tokens of both that stand for the same bytes are a group (`ft_jax.data.aligned_rows`). Of each side a group has the
    values ``P = product · softmax(logits)``: with ``merge="observed"`` the distribution at its first token, times the
    probabilities of those of its tokens that follow; with ``"bayesian"`` that at its last token, times those of the
    tokens before. At the text's own tokens both are the probability of the group's bytes. With p the student's and q
    the teacher's, ``sorted`` from the largest on and the shorter filled up with 0, the term is ``weight ·`` the mean
    over all labels that count of their group's

    - without `common`: ``Σ |sorted(p) - sorted(q)|``, the Wasserstein-1 distance of ULD;
    - with the tokens C that both vocabularies have: ``matched · JSD(p_C, q_C) + unmatched · Σ |sorted(p_rest) -
      sorted(q_rest)|``, GOLD's hybrid, with the generalised Jensen-Shannon divergence of `jsd`, ``Σ beta · q log(q /
      m) + (1 - beta) · p log(p / m)``, ``m = beta · q + (1 - beta) · p``.

    A label without a group counts 0. Where both tokenizers are one, every token is common and ``matched`` is 1, it is
    `jsd`. Both sides' logits are made chunk by chunk, at temperature 1, at which probabilities of tokens multiply.

    Args:
      apply, params: the teacher's, as in `logits`; it reads ``batch["teacher_tokens"]``.
      weight: of the term; data in ``hyper``, as are all numbers here.
      hard_weight: of the task's term; None takes it out.
      common: ``(student's ids, teacher's ids)`` of the tokens that both have, `ft_jax.data.common_tokens`; in an
        experiment ``CommonTokens(address)``. None compares sorted values alone.
      beta: the teacher's share of the mixture, above 0 and below 1: at the ends a divergence of parts of distributions
        is none.
      matched, unmatched: of the two parts; None for the common share of the teacher's vocabulary, and what is left of
        1.
      merge: how a group of several tokens becomes one distribution.
      top: compare so many of the largest values and the sum of all others as one, a lower bound of the distance that
        needs no sorted vocabulary; None compares all.
      name: the method's name, under which the teacher's parameters stand.

    Raises:
      ValueError: another merge, a beta outside (0, 1), a top below 1, ids that don't pair; while tracing, a model
        without a head or with fewer classes than the ids.
      KeyError: while training on a batch without the teacher's tokens.

    Example:
      >>> from ft_jax.core import make_step, supervised
      >>> import optax
      >>> apply = lambda params, batch, key: Outputs(params["w"][batch["input_ids"]], jnp.eye(params["w"].shape[1]))
      >>> method = uld(apply, {"w": jnp.log(jnp.array([[0.5, 0.3, 0.2]]))}, hard_weight=None)
      >>> program = make_step(supervised(apply), optax.sgd(0.1), method)
      >>> state = program.init({"w": jnp.log(jnp.array([[0.1, 0.9]]))}, jax.random.key(0))
      >>> row = {"input_ids": jnp.array([[0]]), "labels": jnp.array([[1]]), "token_groups": jnp.array([[1]])}
      >>> _, metrics = program.step(state, {**row, "teacher_tokens": row})
      >>> round(float(metrics["distillation.uld"]), 4)  # |0.9 - 0.5| + |0.1 - 0.3| + |0 - 0.2|
      0.8
    """
    if merge not in MERGES:
        raise ValueError(f"{name} has merge {merge!r}; use 'observed' or 'bayesian'")
    if not 0 < beta < 1:
        raise ValueError(f"{name} has beta {beta}; give a number above 0 and below 1")
    if top is not None and top < 1:
        raise ValueError(f"{name} has top {top}; give at least 1, or None for all values")
    numbers = {"weight": weight} | ({} if hard_weight is None else {"hard_weight": hard_weight})
    if common is not None:
        common = tuple(np.asarray(ids, np.int32).reshape(-1) for ids in common)
        if len(common) != 2 or len(common[0]) != len(common[1]):
            raise ValueError(f"{name} has ids of common tokens that don't pair; give (the student's, the teacher's)")
        shares_given = {"matched": matched, "unmatched": unmatched}
        numbers |= {"beta": beta, **{part: share for part, share in shares_given.items() if share is not None}}

    def loss(inner):
        def distilled(learned, batch, context):
            terms, student = inner(learned, batch, context)
            if GROUPS not in batch or TAUGHT not in batch:
                if not context.train:
                    return terms, student
                raise KeyError(
                    f"{name} reads {GROUPS!r} and {TAUGHT!r}, the texts in the teacher's tokens, and the batch has "
                    f"{named(batch)}; add them, as data.teacher_tokenizer does"
                )
            theirs = taught(apply, context.join(learned)[name], batch[TAUGHT])
            for role, outputs in (("student", student), ("teacher", theirs)):
                if outputs.unembedding is None:
                    raise ValueError(f"{name} compares distributions over tokens, but the {role} has no head over them")
            own = context.hyper[name]
            return beside_task(terms, name, own, distance(student, theirs, batch, common, own, merge, top)), student

        return distilled

    return Method(
        name=name,
        hyper=numbers,
        surgery=holding(name, params),
        trainable=never(f"{name}/*"),
        loss=loss,
        drops=("task",) if hard_weight is None else (),
        reads="examples",
        fields=(GROUPS, TAUGHT),
        refuses=_refuses(name),
    )


def distance(
    student: Outputs,
    teacher: Outputs,
    batch: Batch,
    common: tuple[np.ndarray, np.ndarray] | None = None,
    numbers: Mapping[str, Array] | None = None,
    merge: str = "observed",
    top: int | None = None,
    chunk: int | None = None,
) -> Float[Array, ""]:
    """The mean over all labels that count of the distance of their groups' distributions, see `uld`.

    Args:
      student, teacher: outputs for the batch and for its part of the teacher's tokens.
      batch: with ``token_groups`` and ``teacher_tokens``.
      common: ids of common tokens.
      numbers: ``beta``, ``matched`` and ``unmatched``, where `common` is given.
      merge, top: as in `uld`.
      chunk: as in `ft_jax.core.losses.cross_entropy`.
    """
    own, weights = _merged(student, batch, merge, chunk), shares(batch, batch["labels"].shape)
    theirs = _merged(teacher, batch[TAUGHT], merge, chunk)
    weights = jnp.take_along_axis(_summed(weights, own.groups), own.groups, axis=1) * own.stands
    place = jnp.take_along_axis(_last(theirs.stands, theirs.groups, own.groups.shape[1]), own.groups, axis=1)
    # A group whose tokens the teacher does not read, cut off or hidden, has no place there.
    weights, place = weights * (place >= 0), jnp.maximum(place, 0)
    # What counts comes first in each row, so that chunks of prompts, padding and groups' other tokens do nothing.
    order = jnp.argsort(weights <= 0, axis=1, stable=True)
    weights, place, own_product = (jnp.take_along_axis(x, order, axis=1) for x in (weights, place, own.product))
    rows = jnp.take_along_axis(student.hidden, order[..., None], axis=1), own_product
    hidden = jnp.take_along_axis(teacher.hidden, place[..., None], axis=1)
    product = jnp.take_along_axis(theirs.product, place, axis=1)
    taught_there = dataclasses.replace(teacher, hidden=hidden)
    chunks = tuple(
        min(STEPS, *both) for both in zip(*(chunk_sizes(x, chunk) for x in (student, taught_there)), strict=True)
    )
    return chunked_mean(
        _Rows((student.softcap, teacher.softcap), top),
        rows,
        student.head,
        (hidden, product, weights > 0),
        (teacher.head, _compared(common, student, teacher, numbers or {})),
        weights,
        weights.shape[0],
        chunks,
    )


@dataclasses.dataclass(frozen=True)
class _Side:
    """One side's groups: their numbers ``[batch, time]``, where a group's distribution stands (1 or 0), and there the
    logarithm of what it is multiplied by."""

    groups: Int[Array, "batch time"]
    stands: Float[Array, "batch time"]
    product: Float[Array, "batch time"]


def _merged(outputs: Outputs, batch: Batch, merge: str, chunk: int | None) -> _Side:
    labels, groups = batch["labels"], batch[GROUPS]
    real = real_tokens(batch)
    inside = (groups > 0) & (labels >= 0) & (True if real is None else real > 0)
    groups = jnp.where(inside, groups, 0)
    if merge == "observed":
        before = jnp.pad(jax.lax.cummax(groups, axis=1), ((0, 0), (1, 0)))[:, :-1]
        stands = groups > before
    else:
        # The smallest number to come is larger where a group's last token stands.
        none = groups.shape[1] + 1
        numbers = jnp.where(inside, groups, none)
        after = jnp.pad(jax.lax.cummin(numbers, axis=1, reverse=True)[:, 1:], ((0, 0), (0, 1)), constant_values=none)
        stands = inside & (after > groups)
    others = _said(outputs, jnp.maximum(labels, 0), inside & ~stands, chunk)
    product = jnp.take_along_axis(_summed(others, groups), groups, axis=1)
    return _Side(groups, stands.astype(jnp.float32), jnp.where(stands, product, 0.0))


def _said(outputs: Outputs, labels, asked, chunk: int | None) -> Float[Array, "batch time"]:
    """``log p(label)`` where it is asked for, 0 elsewhere; few groups have several tokens, so few chunks are made."""
    steps = min(STEPS, chunk_sizes(outputs, chunk)[0])
    order = jnp.argsort(~asked, axis=1, stable=True)

    def pieces(x):
        x = jnp.take_along_axis(x, order.reshape(*order.shape, *[1] * (x.ndim - 2)), axis=1)
        x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % steps)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], -1, steps, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def of(piece):
        hidden, labels, asked = piece
        one = dataclasses.replace(outputs, hidden=hidden, states={})
        said = functools.partial(token_log_probabilities, one, labels, steps)
        return jax.lax.cond(jnp.any(asked), said, lambda: jnp.zeros(labels.shape, jnp.float32))

    found = jnp.moveaxis(jax.lax.map(of, tuple(map(pieces, (outputs.hidden, labels, asked)))), 0, 1)
    back = jnp.argsort(order, axis=1)
    return jnp.where(asked, jnp.take_along_axis(found.reshape(len(labels), -1), back, axis=1), 0.0)


def _summed(values, groups):
    """``[batch, groups + 1]``: the sum of each group's values, the first of those in none."""
    return jax.vmap(lambda v, g: jnp.zeros(len(g) + 1, v.dtype).at[g].add(v))(values, groups)


def _last(stands, groups, count: int):
    """``[batch, count + 1]``: where each group's distribution stands, -1 for a group that has none."""
    place = jnp.where(stands > 0, jnp.arange(groups.shape[1]), -1)
    found = jax.vmap(lambda p, g: jnp.full(count + 1, -1).at[g].max(p))(place, groups)
    return found.at[:, 0].set(-1)


def _compared(common, student: Outputs, teacher: Outputs, numbers) -> dict[str, Any] | None:
    """What a hybrid comparison reads: ids of the common and of the other tokens, and its numbers."""
    if common is None:
        return None
    classes = [shape(outputs.unembedding)[1] for outputs in (student, teacher)]
    for role, ids, count in zip(("student", "teacher"), common, classes, strict=True):
        if len(ids) and int(ids.max()) >= count:
            raise ValueError(f"a common token has id {int(ids.max())} and the {role} {count} classes; give its own ids")
    matched = numbers.get("matched", len(common[1]) / classes[1])
    rest = [np.setdiff1d(np.arange(count), ids) for ids, count in zip(common, classes, strict=True)]
    return {
        "common": tuple(jnp.asarray(ids) for ids in common),
        "rest": tuple(jnp.asarray(ids, jnp.int32) for ids in rest),
        "beta": numbers["beta"],
        "matched": matched,
        "unmatched": numbers.get("unmatched", 1.0 - matched),
    }


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The distance of every group's two distributions, of hidden states."""

    softcaps: tuple[float | None, float | None]
    top: int | None

    def __call__(self, rows, head, beside, constants):
        *beside, counts = beside
        none = functools.partial(jnp.zeros, counts.shape, jnp.float32)
        return jax.lax.cond(jnp.any(counts), lambda: self.apart(rows, head, beside, constants), none)

    def apart(self, rows, head, beside, constants):
        their_head, compared = constants
        sides = ((*rows, head), (*beside, their_head))
        own, theirs = (
            jax.nn.log_softmax(logits_of(hidden, one, softcap)) + product[..., None]
            for (hidden, product, one), softcap in zip(sides, self.softcaps, strict=True)
        )
        if compared is None:
            return wasserstein(jnp.exp(own), jnp.exp(theirs), self.top)
        (same, theirs_same), (rest, their_rest) = compared["common"], compared["rest"]
        apart = wasserstein(jnp.exp(own[..., rest]), jnp.exp(theirs[..., their_rest]), self.top)
        p, q, beta = own[..., same], theirs[..., theirs_same], compared["beta"]
        mixed = mixture(beta, q, p)
        divergence = beta * kl(q, mixed) + (1 - beta) * kl(p, mixed)
        return compared["matched"] * divergence + compared["unmatched"] * apart


def _refuses(name):
    def refuses(parts):
        other = next((part.name for part in parts if part.name == "distillation.on_policy"), None)
        if other is None:
            return None
        return (
            f"{name} reads the data's texts in the teacher's tokens, and {other} has the student write others; leave "
            "one of the two out"
        )

    return refuses
