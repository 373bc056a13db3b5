"""Errors of other libraries in one sentence: what could not be done, what they said, and what helps."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

OURS = (ValueError, KeyError, OSError)
"""What this package raises, with a sentence of its own."""

MOST = 300
"""Characters of another library's words that are told; ``--debug`` shows them all."""


class Failed(RuntimeError):
    """Something that failed while a run went on, in one sentence; what was raised first is its ``__cause__``."""

    one_sentence = True


@contextlib.contextmanager
def one_sentence(what: str | Callable[[], str], remedy: str, kind: type[Exception] = Failed) -> Iterator[None]:
    """Turns what another library raises inside into one sentence; what this package says goes through as it is.

    Args:
      what: can't be done, such as ``"a training step on task 'movies' failed"``, or a function that says it then.
      remedy: what to change.
      kind: of the error, `Failed` while a run goes on and ValueError before it starts.

    Example:
      >>> with one_sentence("the step failed", "change the model"):
      ...     raise TypeError("dot_general\\nrequires")
      Traceback (most recent call last):
      ft_jax.training.causes.Failed: the step failed (TypeError: dot_general requires); change the model
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, Failed) or (isinstance(error, OURS) and not foreign(error)):
            raise
        words = " ".join(str(error).split())
        words = words if len(words) <= MOST else f"{words[: MOST - 1]}…"
        if "RESOURCE_EXHAUSTED" in words or "ut of memory" in words:
            remedy = "it does not fit the device's memory; make budget.batch_size smaller or budget.accumulate larger"
        said = f"{type(error).__name__}: {words}" if words else type(error).__name__
        raise kind(f"{what if isinstance(what, str) else what()} ({said}); {remedy}") from error


def foreign(error: BaseException) -> bool:
    """Whether an error was raised in an installed library, by where it comes from or how it is written."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    inside = last is not None and "site-packages" in last.tb_frame.f_code.co_filename
    cause = type(error.__cause__).__module__.partition(".")[0]
    return inside or cause in ("jax", "jaxlib") or "\n" in str(error).strip()


def fields_of(batch: Mapping[str, Any]) -> str:
    """A batch's fields with types and shapes, for an error.

    Example:
      >>> fields_of({"x": np.zeros((2, 3)), "labels": np.zeros(2, np.int32)})
      'labels int32[2], x float64[2, 3]'
    """
    leaves = jax.tree_util.tree_leaves_with_path(dict(batch))
    told = (f"{jax.tree_util.keystr(path, simple=True, separator='/')} {_type(leaf)}" for path, leaf in leaves)
    return ", ".join(told)


def _type(leaf) -> str:
    return f"{np.asarray(leaf).dtype}{list(np.shape(leaf))}"
