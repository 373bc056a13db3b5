"""Which entries of a task vector are kept, and how the kept ones make up for the others."""

import math

import numpy as np

RESCALES = ("density", "l1", "none")


def trim(vector: np.ndarray, density: float) -> np.ndarray:
    """Whether each entry is among the ``int(density · size)`` largest by magnitude, at least one (TIES, step 1).

    Example:
      >>> trim(np.array([3.0, -1.0, 2.0, 0.5]), 0.5).tolist()
      [True, False, True, False]
    """
    if density >= 1 or not vector.size:
        return np.ones(vector.shape, bool)
    kept = np.zeros(vector.size, bool)
    count = max(1, int(density * vector.size))
    # A stable sort: among equal magnitudes the first are kept.
    kept[np.argsort(-np.abs(vector).reshape(-1), kind="stable")[:count]] = True
    return kept.reshape(vector.shape)


def magnitude_probabilities(vector: np.ndarray, density: float, epsilon: float) -> np.ndarray:
    """DELLA's chance of each entry to be kept: linear in its rank by magnitude in its row (MagPrune).

    From ``density - epsilon`` of the smallest to ``density + epsilon`` of the largest.

    Example:
      >>> magnitude_probabilities(np.array([[3.0, -1.0, 2.0]]), 0.5, 0.2)
      array([[0.7, 0.3, 0.5]])
    """
    rows = vector.reshape(-1, vector.shape[-1]) if vector.ndim else vector.reshape(1, 1)
    ranks = np.argsort(np.argsort(np.abs(rows), axis=1, kind="stable"), axis=1, kind="stable")
    last = rows.shape[1] - 1
    # A row of one entry has no smallest and no largest.
    place = ranks / last if last else np.full(ranks.shape, 0.5)
    return (density - epsilon + 2 * epsilon * place).reshape(vector.shape)


def keep(vector: np.ndarray, kept: np.ndarray, rescale: str, probabilities: np.ndarray | float) -> np.ndarray:
    """`vector` where `kept`, else 0, then rescaled.

    Args:
      vector: any shape.
      kept: booleans of that shape.
      rescale: ``"density"`` divides each kept entry by its chance (the papers: the expectation stays), ``"l1"``
        restores the sum of magnitudes (mergekit's rule), ``"none"`` does nothing.
      probabilities: each entry's chance to be kept.
    """
    result = np.where(kept, vector, 0).astype(vector.dtype)
    if rescale == "density":
        return (result / np.asarray(probabilities, vector.dtype)).astype(vector.dtype)
    if rescale == "l1":
        before, after = np.abs(vector).sum(dtype=np.float64), np.abs(result).sum(dtype=np.float64)
        return result * vector.dtype.type(before / after) if min(before, after) > 1e-7 else result
    return result


def check_rescale(rule: str, rescale: str) -> None:
    """Refuses an unknown way to rescale.

    Raises:
      ValueError: with the known ones.
    """
    if rescale not in RESCALES:
        raise ValueError(f"{rule} can't rescale by {rescale!r}; use one of {', '.join(RESCALES)}")


def magnitude_at(vectors, density: float) -> np.float32:
    """The magnitude that ``density`` of all entries reach, over several tensors that are never held together.

    Magnitudes of float32 numbers are in the order of their bits. So one pass counts the upper 16 bits, and a second
    the lower 16 of those that share the wanted upper ones: the result is an entry's magnitude, exactly.

    Args:
      vectors: a function whose every call goes over the tensors anew.
      density: share of all entries, ``int(density · size)`` of them and at least one.

    Example:
      >>> float(magnitude_at(lambda: iter([np.array([1.0, -5.0]), np.array([2.0, 4.0])]), 0.5))
      4.0
    """

    def counted(digit):
        counts = np.zeros(1 << 16, np.int64)
        for vector in vectors():
            bits = np.abs(vector.astype(np.float32)).reshape(-1).view(np.uint32)
            counts += np.bincount(digit(bits), minlength=1 << 16)
        return counts

    upper = counted(lambda bits: (bits >> 16).astype(np.int64))
    wanted = max(1, int(density * upper.sum()))
    high, above = _from_the_top(upper, wanted)
    lower = counted(lambda bits: (bits[(bits >> 16) == high] & 0xFFFF).astype(np.int64))
    low, _ = _from_the_top(lower, wanted - above)
    return np.uint32((high << 16) | low).view(np.float32)


def _from_the_top(counts, wanted: int) -> tuple[int, int]:
    """The bin in which the `wanted`-th largest lies, and how many lie above it."""
    total = np.cumsum(counts[::-1])
    place = int(np.searchsorted(total, wanted))
    return len(counts) - 1 - place, int(total[place] - counts[::-1][place])


def signs_differ(vectors: np.ndarray) -> float:
    """Share of the entries on whose sign the models don't agree, zeros apart.

    Example:
      >>> signs_differ(np.array([[1.0, 1.0, 0.0, 0.0], [1.0, -1.0, 1.0, 0.0]]))
      0.25
    """
    if not vectors[0].size:
        return math.nan
    return float(np.mean((vectors > 0).any(axis=0) & (vectors < 0).any(axis=0)))
