"""Losses over classes and tokens that never hold all logits, and the plain losses built from them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ft_jax.core.batches import Batch, divisor, shares
from ft_jax.core.mesh import batch_shards, traced_copies, traced_memory
from ft_jax.core.method import Loss, Terms
from ft_jax.core.outputs import Outputs, logits_of
from ft_jax.core.weights import shape

MEMORY_SHARE = 64
"""A chunk's logits take at most one part of so many of a device's memory, in float32."""

MOST_LOGITS = 2**27
"""More than so many in a chunk move hardly fewer bytes (docs/performance.md, "Chunks of logits")."""


def chunked_mean(
    row_loss: Callable,
    rows: Any,
    shared: Any,
    aligned: Any,
    constants: Any,
    weights: Float[Array, "batch time"],
    total: Float[Array, ""],
    chunks: tuple[int, int],
) -> Float[Array, ""]:
    """``Σ weights · row_loss(...) / total``, made some time steps at a time with the gradient formed on the way.

    One pass over the chunks gives the value and, where a gradient is wanted, the gradients of `rows` and
    `shared`, so neither a chunk's logits nor anything to recompute them is kept.

    Args:
      row_loss: ``(rows, shared, aligned, constants) -> [batch, time]`` for any slice of time.
      rows: differentiated arrays ``[batch, time, ...]``, such as hidden states.
      shared: differentiated and the same for every chunk, such as the unembedding.
      aligned: arrays ``[batch, time, ...]`` that are not differentiated, such as labels.
      constants: not differentiated and the same for every chunk, such as a temperature.
      weights: how much each position counts; not differentiated.
      total: what the weighted sum is divided by.
      chunks: time steps per chunk, and where `shared` learns, see `chunk_sizes`.
    """
    constants, weights, aligned = jax.lax.stop_gradient((constants, weights, aligned))
    if weights.ndim < 2 or weights.shape[1] <= chunks[0]:
        return jnp.sum(weights * row_loss(rows, shared, aligned, constants)) / total
    return _chunked_sum(row_loss, chunks, rows, shared, aligned, constants, weights) / total


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked_sum(row_loss, chunks, rows, shared, aligned, constants, weights):
    def body(total, piece):
        rows, aligned, weights = piece
        return total + jnp.sum(weights * row_loss(rows, shared, aligned, constants)), None

    return jax.lax.scan(body, jnp.float32(0), _pieces((rows, aligned, weights), chunks[0]))[0]


def _chunked_sum_forward(row_loss, chunks, rows, shared, aligned, constants, weights):
    shared_learns = _learns(shared)
    rows, shared, aligned, constants, weights = _values((rows, shared, aligned, constants, weights))
    leaves, outline = jax.tree.flatten(shared)
    learning = [shared_learns and jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

    def value(rows, learned, aligned, weights):
        learned = iter(learned)
        joined = outline.unflatten([next(learned) if yes else leaf for yes, leaf in zip(learning, leaves, strict=True)])
        return jnp.sum(weights * row_loss(rows, joined, aligned, constants))

    learned = [leaf for yes, leaf in zip(learning, leaves, strict=True) if yes]

    def body(carry, piece):
        total, sums = carry
        rows, aligned, weights = piece
        loss, (d_rows, d_learned) = jax.value_and_grad(value, argnums=(0, 1))(rows, learned, aligned, weights)
        return (total + loss, [a + b.astype(jnp.float32) for a, b in zip(sums, d_learned, strict=True)]), d_rows

    start = (jnp.float32(0), [jnp.zeros(leaf.shape, jnp.float32) for leaf in learned])
    (total, sums), d_rows = jax.lax.scan(body, start, _pieces((rows, aligned, weights), chunks[bool(learned)]))
    time = weights.shape[1]
    d_rows = _whole(d_rows, time)
    sums = iter([s.astype(leaf.dtype) for s, leaf in zip(sums, learned, strict=True)])
    d_shared = outline.unflatten([next(sums) if yes else None for yes in learning])
    return total, (d_rows, d_shared)


def _chunked_sum_backward(row_loss, chunks, residuals, cotangent):
    d_rows, d_shared = jax.tree.map(lambda x: (x * cotangent).astype(x.dtype), residuals)
    return d_rows, d_shared, None, None, None


def _is_primal(leaf) -> bool:
    return isinstance(leaf, jax.custom_derivatives.CustomVJPPrimal)


def _learns(tree) -> bool:
    """Whether a gradient is wanted of any of a forward rule's arguments."""
    return any(leaf.perturbed for leaf in jax.tree.leaves(tree, is_leaf=_is_primal))


def _values(tree):
    """A forward rule's arguments themselves."""
    return jax.tree.map(lambda leaf: leaf.value, tree, is_leaf=_is_primal)


_chunked_sum.defvjp(_chunked_sum_forward, _chunked_sum_backward, symbolic_zeros=True)


def _pieces(tree, chunk: int):
    """``[batch, time, ...]`` to ``[chunks, batch, chunk, ...]``, zero-padded; the batch stays whole for sharding."""

    def split(x):
        x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % chunk)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)

    return jax.tree.map(split, tree)


def _whole(tree, time: int):
    """The inverse of `_pieces`."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])[:, :time], tree)


def default_chunk(outputs: Outputs) -> int:
    """Time steps per chunk, from the memory of the device: see `MEMORY_SHARE` and `MOST_LOGITS`.

    All copies of a mapped program (`ft_jax.core.mesh.mapped`) share that. A power of 2, which divides the usual
    lengths and fills the tiles of a matrix unit.
    """
    most = min(MOST_LOGITS, traced_memory() // (4 * MEMORY_SHARE)) // traced_copies()
    steps = most // (_examples(outputs) * shape(outputs.unembedding)[1])
    return 1 << max(0, steps.bit_length() - 1)


def chunk_sizes(outputs: Outputs, chunk: int | None = None) -> tuple[int, int]:
    """Time steps per chunk, and where the head learns: `chunk` for both, by default what suits the device.

    Every chunk of a head that learns adds to a gradient of the head's size, so these have at least as many rows as the
    head has inputs: as much work on logits as on the gradient, in no more memory than the gradient takes.
    """
    if chunk is not None:
        return chunk, chunk
    chunk = learning = default_chunk(outputs)
    while learning * _examples(outputs) < shape(outputs.unembedding)[0] and learning < outputs.hidden.shape[1]:
        learning *= 2
    return chunk, learning


def _examples(outputs: Outputs) -> int:
    """Examples on a device."""
    return max(1, outputs.hidden.shape[0] // batch_shards())


def cross_entropy(
    outputs: Outputs,
    labels: Int[Array, "batch ..."],
    weights: Float[Array, "batch ..."] | None = None,
    total: Float[Array, ""] | None = None,
    chunk: int | None = None,
) -> Float[Array, ""]:
    """Mean cross-entropy in nats: ``Σ weights · (logsumexp(logits) - logits[label]) / total``.

    Args:
      outputs: the model's, with an unembedding.
      labels: ``[batch]`` for one class an example or ``[batch, time]`` for tokens; negative ones don't count, and one
        that is no class gives NaN.
      weights: how much each label counts; 1 by default.
      total: the divisor; the sum of the weights by default.
      chunk: time steps whose logits are held at once; any number gives the same result.

    Example:
      >>> import jax.numpy as jnp
      >>> outputs = Outputs(hidden=jnp.zeros((2, 3)), unembedding=jnp.ones((3, 4)))
      >>> round(float(cross_entropy(outputs, jnp.array([0, 1]))), 4)
      1.3863
    """
    counted = (labels >= 0).astype(jnp.float32)
    weights = counted if weights is None else counted * weights
    total = divisor(weights) if total is None else total
    row_loss = functools.partial(_cross_entropy_rows, softcap=outputs.softcap)
    chunks = chunk_sizes(outputs, chunk)
    return chunked_mean(row_loss, outputs.hidden, outputs.head, labels, (), weights, total, chunks)


def _cross_entropy_rows(hidden, head, labels, constants, softcap):
    logits = logits_of(hidden, head, softcap)
    # A masked sum, not a gather: its gradient is part of the pass that makes the softmax's, not a scatter.
    classes = jnp.arange(logits.shape[-1])
    chosen = jnp.sum(jnp.where(classes == labels[..., None], logits, 0.0), axis=-1)
    return jnp.where(labels < len(classes), jax.nn.logsumexp(logits, axis=-1) - chosen, jnp.nan)


def kl_divergence(
    student: Outputs,
    teacher: Outputs,
    temperature: Float[Array, ""] | float = 1.0,
    weights: Float[Array, "batch ..."] | None = None,
    total: Float[Array, ""] | None = None,
    chunk: int | None = None,
) -> Float[Array, ""]:
    """Mean ``temperature² · KL(softmax(teacher / temperature) || softmax(student / temperature))``, in nats.

    Hinton et al. 2015, arXiv:1503.02531, section 2: the square keeps the gradient's size when the
    temperature changes. The teacher and the temperature are not differentiated.

    Args:
      student, teacher: outputs over one vocabulary for the same positions.
      temperature: softens both distributions.
      weights, total, chunk: as in `cross_entropy`.
    """
    weights = jnp.ones(student.hidden.shape[:-1]) if weights is None else weights
    total = divisor(weights) if total is None else total
    row_loss = functools.partial(_kl_rows, softcaps=(student.softcap, teacher.softcap))
    constants = (teacher.head, jnp.asarray(temperature, jnp.float32))
    chunks = chunk_sizes(student, chunk)
    return chunked_mean(row_loss, student.hidden, student.head, teacher.hidden, constants, weights, total, chunks)


def _kl_rows(hidden, head, teacher_hidden, constants, softcaps):
    teacher_head, temperature = constants
    log_q = jax.nn.log_softmax(logits_of(hidden, head, softcaps[0]) / temperature)
    log_p = jax.nn.log_softmax(logits_of(teacher_hidden, teacher_head, softcaps[1]) / temperature)
    return temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def token_log_probabilities(
    outputs: Outputs, labels: Int[Array, "batch time"], chunk: int | None = None
) -> Float[Array, "batch time"]:
    """``log p(label)`` at every position, in nats.

    Preference and policy losses are nonlinear in these, so how much each position will count isn't known in the
    forward pass. But a position's own gradient is: where the head does not learn, it is formed on the way and only
    scaled in the backward pass. Where the head learns, each chunk's logits are made again.
    """
    row_loss = functools.partial(_cross_entropy_rows, softcap=outputs.softcap)
    chunk = chunk or default_chunk(outputs)
    if labels.shape[1] <= chunk:
        return -row_loss(outputs.hidden, outputs.head, labels, ())
    return -_chunked_rows(row_loss, chunk, outputs.hidden, outputs.head, labels)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _chunked_rows(row_loss, chunk, rows, shared, aligned):
    return _by_chunks(lambda rows, aligned: row_loss(rows, shared, aligned, ()), chunk, rows, aligned)


def _chunked_rows_forward(row_loss, chunk, rows, shared, aligned):
    shared_learns = _learns(shared)
    rows, shared, aligned = _values((rows, shared, aligned))
    if shared_learns:
        return _chunked_rows(row_loss, chunk, rows, shared, aligned), (None, rows, shared, aligned)

    def piece(rows, aligned):
        losses, back = jax.vjp(lambda rows: row_loss(rows, shared, aligned, ()), rows)
        return losses, back(jnp.ones_like(losses))[0]

    losses, own = _by_chunks(piece, chunk, rows, aligned)
    return losses, (own, None, None, None)


def _chunked_rows_backward(row_loss, chunk, residuals, cotangent):
    own, rows, shared, aligned = residuals
    if own is not None:
        return (own * cotangent[..., None]).astype(own.dtype), None, None

    def again(rows, shared):
        piece = jax.checkpoint(lambda rows, aligned, shared: row_loss(rows, shared, aligned, ()))
        return _by_chunks(lambda rows, aligned: piece(rows, aligned, shared), chunk, rows, aligned)

    return *jax.vjp(again, rows, shared)[1](cotangent), None


_chunked_rows.defvjp(_chunked_rows_forward, _chunked_rows_backward, symbolic_zeros=True)


def _by_chunks(function, chunk: int, *arrays):
    """``function`` of each piece of time, put together again: ``[batch, time, ...]``."""
    pieces = _pieces(arrays, chunk)
    _, found = jax.lax.scan(lambda _, piece: (None, function(*piece)), None, pieces)
    return _whole(found, arrays[0].shape[1])


def divergence(
    row_loss: Callable,
    student: Outputs,
    teacher: Outputs | tuple[Outputs, ...],
    batch: Batch,
    numbers: Any = (),
    chunk: int | None = None,
    aligned: Any = None,
) -> Float[Array, ""]:
    """The mean of a loss of every position's logits beside a teacher's, over all positions that count.

    Chunk by chunk on both sides; neither the teacher nor the numbers are differentiated.

    Args:
      row_loss: ``(student's logits, teacher's logits, numbers) -> [batch, ...]``; logits ``[batch, ..., classes]``.
      student, teacher: outputs for the same positions; of several teachers `row_loss` gets a tuple of logits.
      batch: says which positions count, see `ft_jax.core.batches.shares`.
      numbers: scalars for `row_loss`.
      chunk: as in `cross_entropy`.
      aligned: arrays ``[batch, ...]`` at the same positions, such as labels: the fourth argument of `row_loss` where
        they are given.

    Example:
      >>> import jax.numpy as jnp
      >>> one = Outputs(hidden=jnp.ones((2, 3)), unembedding=jnp.eye(3))
      >>> float(divergence(lambda a, b, _: jnp.sum((a - b) ** 2, -1), one, one, {"labels": jnp.array([0, 1])}))
      0.0
    """
    weights = shares(batch, student.hidden.shape[:-1])
    teachers = teacher if isinstance(teacher, tuple) else (teacher,)
    several = isinstance(teacher, tuple)
    row_loss = _Rows(row_loss, student.softcap, tuple(one.softcap for one in teachers), several, aligned is not None)
    constants = (tuple(one.head for one in teachers), numbers)
    beside = (tuple(one.hidden for one in teachers), aligned)
    total, chunks = weights.shape[0], chunk_sizes(student, chunk)
    return chunked_mean(row_loss, student.hidden, student.head, beside, constants, weights, total, chunks)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """A loss of logits as one of hidden states."""

    row_loss: Callable
    softcap: float | None
    softcaps: tuple[float | None, ...]
    several: bool
    aligned: bool

    def __call__(self, hidden, head, beside, constants):
        (states, aligned), (heads, numbers) = beside, constants
        own = logits_of(hidden, head, self.softcap)
        theirs = tuple(logits_of(*one) for one in zip(states, heads, self.softcaps, strict=True))
        more = (aligned,) if self.aligned else ()
        return self.row_loss(own, theirs if self.several else theirs[0], numbers, *more)


def mean_cross_entropy(outputs: Outputs, batch: Batch, chunk: int | None = None) -> Float[Array, ""]:
    """Cross-entropy of ``batch["labels"]``, the mean over all labels of the whole batch that count.

    Example:
      >>> import jax.numpy as jnp
      >>> outputs = Outputs(hidden=jnp.zeros((2, 3)), unembedding=jnp.ones((3, 4)))
      >>> round(float(mean_cross_entropy(outputs, {"labels": jnp.array([0, -1])})), 4)
      1.3863
    """
    labels = batch["labels"]
    return cross_entropy(outputs, labels, shares(batch, labels.shape), float(labels.shape[0]), chunk)


def supervised(apply, term: str = "task", chunk: int | None = None) -> Loss:
    """Cross-entropy of a model's outputs with ``batch["labels"]``: classification and language modelling.

    Args:
      apply: ``(params, batch, key) -> Outputs``; labels are ``[batch]`` or ``[batch, time]``, like the
        outputs' hidden states without their last axis. Labels of tokens are the targets of their positions.
      term: the name of the loss's only term.
      chunk: see `cross_entropy`.
    """

    def loss(params, batch, context):
        outputs = context.run(apply, params, batch)
        return {term: mean_cross_entropy(outputs, batch, chunk)}, outputs

    return loss


def forward(apply) -> Loss:
    """A loss with no terms of its own: the model's outputs, for methods that bring the terms (contrastive ones)."""

    def loss(params, batch, context):
        return {}, context.run(apply, params, batch)

    return loss


def scale_term(terms: Terms, term: str, weight: Array | float | None) -> dict[str, Array]:
    """`terms` with one of them multiplied by `weight`, or left out where that is None; the others as they are.

    Nothing of a term that is left out is computed.

    Example:
      >>> scale_term({"task": 2.0, "penalty": 1.0}, "task", 0.5), scale_term({"task": 2.0}, "task", None)
      ({'task': 1.0, 'penalty': 1.0}, {})
    """
    if weight is None:
        return {name: value for name, value in terms.items() if name != term}
    return {name: weight * value if name == term else value for name, value in terms.items()}
