"""Numbers: retrieval both ways, captions, and what is left of a score without a modality."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def recalls(
    similarities: np.ndarray, ks: Sequence[int] = (1, 5, 10), same: np.ndarray | None = None
) -> dict[str, float]:
    """Retrieval recall both ways: the share of rows with a right column among the `k` nearest, and of columns.

    Args:
      similarities: ``[images, texts]``.
      ks: how many nearest; no more than there are.
      same: ``[images, texts]``, where a pair is right; the diagonal by default. An image may have several texts.

    Returns:
      ``{"image_to_text@1": …, "text_to_image@1": …, …}``.

    Raises:
      ValueError: no similarities, one that is not finite, a `k` that is not from 1 to as many as there are, or a row or
        column with nothing right.

    Example:
      >>> recalls(np.array([[0.9, 0.1], [0.8, 0.2]]), ks=(1,))
      {'image_to_text@1': 0.5, 'text_to_image@1': 1.0}
    """
    values = np.asarray(similarities, np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"similarities has shape {values.shape} and must be finite, [images, texts]; look at it")
    right = np.eye(*values.shape, dtype=bool) if same is None else np.asarray(same, bool)
    if right.shape != values.shape:
        raise ValueError(f"same has shape {right.shape} and similarities {values.shape}; give them one shape")
    if not (right.any(axis=0).all() and right.any(axis=1).all()):
        raise ValueError("an image or a text has nothing right to find; drop it, or say what is right with same=...")
    found = {}
    for k in ks:
        for name, near, hit in (("image_to_text", values, right), ("text_to_image", values.T, right.T)):
            if not 1 <= k <= near.shape[1]:
                raise ValueError(f"k is {k} and there are {near.shape[1]} to find; give a number from 1 to that")
            best = np.argsort(-near, axis=1, kind="stable")[:, :k]
            found[f"{name}@{k}"] = float(np.take_along_axis(hit, best, axis=1).any(axis=1).mean())
    return found


def exact_match(written: Sequence[str], wanted: Sequence[str | Sequence[str]]) -> float:
    """The share of captions that are one of those wanted, whatever their case and spaces.

    Raises:
      ValueError: none, or not as many of one as of the other.

    Example:
      >>> exact_match(["A small  three", "a two"], ["a small three", ["a one", "one"]])
      0.5
    """
    if not written or len(written) != len(wanted):
        raise ValueError(f"there are {len(written)} captions and {len(wanted)} wanted; give one for each")

    def plain(text):
        return " ".join(text.lower().split())

    right = [
        plain(one) in {plain(text) for text in ([texts] if isinstance(texts, str) else texts)}
        for one, texts in zip(written, wanted, strict=True)
    ]
    return float(np.mean(right))


def bleu(written: Sequence[str], wanted: Sequence[str | Sequence[str]]) -> float:
    """BLEU of a corpus of captions, from 0 to 100, by sacrebleu with its defaults (``pip install "ft_jax[captions]"``).

    Papineni et al. 2002; Post 2018, arXiv:1804.08771.

    Args:
      written: captions.
      wanted: what is right of each, one text or several.

    Raises:
      ModuleNotFoundError: sacrebleu is not installed.
      ValueError: none, or not as many of one as of the other.
    """
    if not written or len(written) != len(wanted):
        raise ValueError(f"there are {len(written)} captions and {len(wanted)} wanted; give one for each")
    try:
        import sacrebleu
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('BLEU needs sacrebleu; pip install "ft_jax[captions]"', name=error.name) from None
    every = [[texts] if isinstance(texts, str) else list(texts) for texts in wanted]
    most = max(len(texts) for texts in every)
    references = [[texts[place] if place < len(texts) else None for texts in every] for place in range(most)]
    return float(sacrebleu.corpus_bleu(list(written), references).score)


def without(batch: Mapping[str, Any], *modalities: str) -> dict[str, Any]:
    """`batch` in which no example has the modalities.

    Raises:
      KeyError: the batch has no such part.
    """
    for name in modalities:
        if name not in batch:
            raise KeyError(f"the batch has no {name!r} to take away; it has {', '.join(batch)}")
    return {name: part for name, part in batch.items() if name not in modalities}


def corrupted(batch: Mapping[str, Any], modality: str, seed: int = 0, amount: float = 1.0) -> dict[str, Any]:
    """`batch` with one modality made worse: noise of `amount` deviations on numbers, other tokens for tokens.

    Of tokens each is replaced with probability `amount` (at most 1) by one drawn among the batch's. Masks and what says
    which examples have the modality stay.

    Raises:
      KeyError: the batch has no such part.

    Example:
      >>> one = {"table": {"numbers": np.arange(6.0).reshape(2, 3), "present": np.ones(2)}}
      >>> worse = corrupted(one, "table")["table"]
      >>> worse["present"].tolist(), bool((worse["numbers"] != one["table"]["numbers"]).all())
      ([1.0, 1.0], True)
    """
    if modality not in batch:
        raise KeyError(f"the batch has no {modality!r} to corrupt; it has {', '.join(batch)}")
    generator = np.random.default_rng(seed)

    def worse(name, values):
        if name in ("present", "attention_mask") or isinstance(values, Mapping):
            return values
        values = np.asarray(values)
        if np.issubdtype(values.dtype, np.floating):
            deviation = np.nanstd(values) * amount
            return (values + generator.normal(size=values.shape) * deviation).astype(values.dtype)
        drawn = generator.choice(values.ravel(), values.shape)
        return np.where(generator.random(values.shape) < amount, drawn, values).astype(values.dtype)

    return {**batch, modality: {name: worse(name, values) for name, values in batch[modality].items()}}


def without_each(
    score: Callable[[Mapping[str, Any]], float], batch: Mapping[str, Any], modalities: Sequence[str], seed: int = 0
) -> dict[str, float]:
    """A score as it is, and with each modality removed, corrupted, or alone.

    Args:
      score: of a batch, such as a model's accuracy.
      batch: with all modalities.
      modalities: their names, at least two.
      seed: of the corruption.

    Returns:
      ``{"all": …, "without image": …, "image corrupted": …, "image alone": …, …}``.
    """
    if len(modalities) < 2:
        raise ValueError(f"without_each has modalities {tuple(modalities)}; name at least two")
    found = {"all": float(score(batch))}
    for name in modalities:
        found[f"without {name}"] = float(score(without(batch, name)))
        found[f"{name} corrupted"] = float(score(corrupted(batch, name, seed)))
        found[f"{name} alone"] = float(score(without(batch, *(other for other in modalities if other != name))))
    return found
