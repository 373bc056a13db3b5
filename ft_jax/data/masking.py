"""Masked language modelling: which tokens are hidden is drawn anew for every epoch, in the data pipeline."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from ft_jax.data.completions import IGNORED


def mask_tokens(
    *, mask: int, vocabulary: int, special: Collection[int] = (), rate: float = 0.15
) -> Callable[[Mapping[str, Any], np.random.Generator], dict[str, Any]]:
    """A transform for `ft_jax.data.batches` that hides some of an example's tokens and makes them its labels.

    Devlin et al. 2018, "BERT", arXiv:1810.04805, section 3.1: of the tokens chosen with probability ``rate``, 80 per
    cent become the mask token, 10 per cent a random token and 10 per cent stay as they are. At least one token is
    chosen where there is one that may be. The draw depends on seed, epoch and example alone.

    Args:
      mask: id of the mask token.
      vocabulary: number of ids; random tokens are drawn from them, special ones left out.
      special: ids that are never chosen and never put in, padding among them.
      rate: share of the tokens to choose.

    Returns:
      ``(example, generator) -> example`` with new ``input_ids``, ``labels`` (the token that was there, -1 where none is
      asked for) and ``weights`` (1 at chosen tokens, else 0).

    Raises:
      ValueError: the rate isn't between 0 and 1, or every id of the vocabulary is special.

    Example:
      >>> hide = mask_tokens(mask=3, vocabulary=100, special=(0, 1, 2, 3), rate=0.5)
      >>> example = hide({"input_ids": np.array([1, 10, 11, 12, 2])}, np.random.default_rng(0))
      >>> example["labels"].tolist(), example["weights"].tolist()
      ([-1, 10, 11, 12, -1], [0.0, 1.0, 1.0, 1.0, 0.0])
    """
    if not 0 < rate <= 1:
        raise ValueError(f"the rate of masking is {rate}; make it more than 0 and at most 1")
    special = np.array(sorted({*special, mask}), dtype=np.int32)
    ordinary = np.setdiff1d(np.arange(vocabulary, dtype=np.int32), special)
    if not len(ordinary):
        raise ValueError(f"all {vocabulary} ids of the vocabulary are special; nothing is left to hide")

    def hide(example: Mapping[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        ids = np.asarray(example["input_ids"], dtype=np.int32)
        may = ~np.isin(ids, special)
        draws = generator.random(ids.shape)
        chosen = may & (draws < rate)
        if may.any() and not chosen.any():
            chosen[np.argmin(np.where(may, draws, np.inf))] = True
        kinds = generator.random(ids.shape)
        others = generator.choice(ordinary, size=ids.shape)
        hidden = np.where(kinds < 0.8, mask, np.where(kinds < 0.9, others, ids))
        return {
            **example,
            "input_ids": np.where(chosen, hidden, ids).astype(np.int32),
            "labels": np.where(chosen, ids, IGNORED).astype(np.int32),
            "weights": chosen.astype(np.float32),
        }

    return hide
