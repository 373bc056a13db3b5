"""A teacher's likeliest classes for an experiment's training rows, written to a folder: ``ft-jax cache-teacher``."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax import models
from ft_jax.core.losses import default_chunk
from ft_jax.core.outputs import logits_of
from ft_jax.core.weights import shape
from ft_jax.data import collate
from ft_jax.data.dataset import Dataset
from ft_jax.data.teacher_cache import (
    TYPES,
    Header,
    begin,
    counted,
    digest_of_rows,
    digest_of_tokenizer,
    write_shard,
)
from ft_jax.outside import listed
from ft_jax.training.objective import outline_of
from ft_jax.training.own_data.rows import MULTIPLE, longest_of, tokenizer_of

SHARD_TOKENS = 1 << 18
"""Tokens of a shard, about: what is lost where the writing is cut off."""


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
      folder: where.
      header: of whom and of what.
      tokens: that carry loss, in the whole cache.
      bytes: of the whole cache on disk.
      fresh: shards that this call wrote.
    """

    folder: Path
    header: Header
    tokens: int
    bytes: int
    fresh: int


def cache_teacher(
    experiment: Any,
    teacher: str,
    out: str | Path,
    *,
    top: int = 64,
    dtype: str = "float16",
    batch_size: int = 8,
    compute: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Written:
    """Runs a teacher over the rows that an experiment trains on and writes its `top` likeliest classes a token.

    A call that was cut off goes on with the shards that are missing when it is made again.

    Args:
      experiment: whose ``data`` is text to learn to write and whose ``model`` is the student: its tokenizer and its
        longest sequence make the rows, and nothing else of it is read.
      teacher: the teacher's address, see `ft_jax.models.load`; it has the student's tokenizer.
      out: a new folder, or one of the same call.
      top: classes a token.
      dtype: of the stored log-probabilities, ``"float16"`` or ``"float32"``.
      batch_size: rows at once.
      compute: the teacher's compute type; None for float32.
      tell: takes a line after every shard.

    Raises:
      ValueError: data of another kind, a teacher with another tokenizer or fewer classes than `top`, or a folder of
        something else; nothing is written.
    """
    if dtype not in TYPES:
        raise ValueError(f"dtype is {dtype!r}; take one of {', '.join(map(repr, TYPES))}")
    for name, value in (("top", top), ("batch", batch_size)):
        if value < 1:
            raise ValueError(f"{name} is {value}; give at least 1")
    if not hasattr(experiment.data, "rows"):
        raise ValueError(
            f"the data of {experiment.name} is {type(experiment.data).__name__}, and a teacher is cached for text to "
            "learn to write; take an experiment such as own/distil"
        )
    student = experiment.model.build(None)
    rows = dataclasses.replace(experiment.data, teacher=None).rows(student)
    model = models.load(teacher, dtype=compute)
    classes = _classes(model)
    _check(student, model, teacher, classes, top)
    longest = -(-longest_of(rows) // MULTIPLE) * MULTIPLE
    header = Header(
        teacher=digest_of_parameters(model.params), tokenizer=digest_of_tokenizer(model.tokenizer),
        data=digest_of_rows(rows), address=str(teacher), classes=classes, top=top, dtype=dtype, rows=len(rows),
        rows_per_shard=max(1, SHARD_TOKENS // longest // batch_size) * batch_size,
    )  # fmt: skip
    out = Path(out)
    missing = begin(out, header)
    run = jax.jit(functools.partial(likeliest, model.apply, top))
    for shard in missing:
        found = list(_of_rows(run, model, rows.take(list(header.rows_of(shard))), batch_size, longest))
        ids, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
        write_shard(out, shard, ids.astype(np.int32), values.astype(dtype))
        tell(f"shard {shard + 1} of {header.shards}: {len(ids):,} tokens")
    size = sum(path.stat().st_size for path in out.iterdir())
    tokens = sum(int(counted(row).sum()) for row in rows)
    return Written(out, header, tokens, size, len(missing))


def likeliest(apply: Callable, top: int, params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
    """``(ids [batch, time, top], log-probabilities [batch, time, top + 1])``, the last of all other classes together.

    Logits are made a few positions at a time.
    """
    outputs = apply(params, batch, None)

    def one(hidden):
        logs = jax.nn.log_softmax(logits_of(hidden, outputs.head, outputs.softcap).astype(jnp.float32))
        held, ids = jax.lax.top_k(logs, top)
        # By what is left over, and not by 1 - Σ, which rounds a small rest away.
        others = jnp.put_along_axis(logs, ids, -jnp.inf, axis=-1, inplace=False)
        rest = jnp.maximum(jax.nn.logsumexp(others, axis=-1, keepdims=True), LEAST)
        return ids, jnp.concatenate([held, rest], axis=-1)

    by_time = jnp.swapaxes(outputs.hidden, 0, 1)
    found = jax.lax.map(one, by_time, batch_size=min(default_chunk(outputs), by_time.shape[0]))
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), found)


LEAST = -60000.0
"""Of a log-probability: float16 holds it, and it is no share at all."""


def _of_rows(run: Callable, model: Any, rows: Dataset, batch_size: int, longest: int) -> Iterator[tuple]:
    for begin_at in range(0, len(rows), batch_size):
        held = [rows[place] for place in range(begin_at, min(begin_at + batch_size, len(rows)))]
        # One shape for all, so that one program serves.
        given = collate(held + held[:1] * (batch_size - len(held)), longest, model.pad_token)
        ids, values = jax.device_get(run(model.params, given))
        for place, row in enumerate(held):
            mask = counted(row)
            yield ids[place, : len(mask)][mask], values[place, : len(mask)][mask]


def _classes(model: Any) -> int:
    outputs = outline_of(model, {"input_ids": np.zeros((1, MULTIPLE), np.int32)})
    if outputs.unembedding is None or len(outputs.hidden.shape) != 3:
        raise ValueError("the teacher has no head over tokens; give a language model")
    return shape(outputs.unembedding)[1]


def _check(student: Any, model: Any, address: str, classes: int, top: int) -> None:
    own, theirs = (tokenizer_of(one).get_vocab() for one in (student, model))
    if own != theirs:
        apart = sorted(set(own.items()) ^ set(theirs.items()), key=str)
        raise ValueError(
            f"the student's tokenizer and that of {address} differ ({len(own)} and {len(theirs)} tokens; "
            f"{listed([token for token, _ in apart][:3])}); a cache holds tokens by id, so choose a teacher with the "
            "student's tokenizer"
        )
    mine = _classes(student)
    if mine != classes:
        raise ValueError(
            f"the student has {mine} classes and {address} {classes}; choose a teacher with the student's classes"
        )
    if top > classes:
        raise ValueError(f"top is {top}, and {address} has {classes} classes; give fewer")


def digest_of_parameters(params: Any) -> str:
    """A digest of every number and of where it stands."""
    found = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return found.hexdigest()
