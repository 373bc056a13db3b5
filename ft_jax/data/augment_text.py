"""Random changes of token sequences inside a step: hide, drop, replace and swap tokens.

Each function gives an augmentation ``(key, example) -> example`` of one example with ``input_ids [time]`` and perhaps
an ``attention_mask`` and other fields of that shape, for `ft_jax.data.augmentation.augmented` and the semi-supervised
methods of `ft_jax.transfer`. Special tokens and padding are left alone.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.data.augmentation import Augmentation


def hide_tokens(rate: float, special: Collection[int] = ()) -> Augmentation:
    """Word dropout by the attention mask: hidden tokens keep their places and are seen by no other.

    Iyyer et al. 2015, "Deep Unordered Composition Rivals Syntactic Methods for Text Classification", section 3.2. It
    needs neither a vocabulary nor a padding token and keeps every position, so it also serves models with an output a
    token. One token at least stays.

    Args:
      rate: the chance of each token.
      special: ids that are never hidden.

    Raises:
      ValueError: a rate outside 0 to 1.
    """
    _check_rate(rate, "hide_tokens")

    def change(key, example):
        ids = example["input_ids"]
        hidden = _chosen(key, example, rate, special)
        return {**example, "attention_mask": (_real(example) & ~hidden).astype(_mask_type(example, ids))}

    return change


def drop_tokens(rate: float, special: Collection[int] = (), padding: int = 0) -> Augmentation:
    """Random deletion: dropped tokens go, the others close up, and padding fills the end.

    Wei and Zou 2019, "EDA: Easy Data Augmentation Techniques", arXiv:1901.11196, section 2. One token at least stays.

    Args:
      rate: the chance of each token.
      special: ids that are never dropped.
      padding: id that fills the end.

    Raises:
      ValueError: a rate outside 0 to 1.

    Example:
      >>> example = {"input_ids": jnp.array([101, 7, 8, 9, 102, 0]), "attention_mask": jnp.array([1, 1, 1, 1, 1, 0])}
      >>> drop_tokens(0.99, special=(101, 102))(jax.random.key(0), example)["attention_mask"].tolist()
      [1, 1, 1, 0, 0, 0]
    """
    _check_rate(rate, "drop_tokens")

    def change(key, example):
        ids = example["input_ids"]
        stays = _real(example) & ~_chosen(key, example, rate, special)
        order = jnp.argsort(~stays, stable=True)
        kept = stays[order]
        fields = {
            name: jnp.where(kept, x[order], padding if name == "input_ids" else 0)
            for name, x in example.items()
            if _of_tokens(x, ids)
        }
        return {**example, **fields, "attention_mask": kept.astype(_mask_type(example, ids))}

    return change


def replace_tokens(
    rate: float, special: Collection[int] = (), *, by: int | None = None, vocabulary: int | None = None
) -> Augmentation:
    """Puts one token, such as the mask, or a random one in place of some.

    Args:
      rate: the chance of each token.
      special: ids that are never replaced and never put in.
      by: the token to put in; or
      vocabulary: the number of ids, of which a random one is put in, special ones left out.

    Raises:
      ValueError: a rate outside 0 to 1; neither or both of `by` and `vocabulary`.

    Example:
      >>> example = {"input_ids": jnp.array([2, 8, 9])}
      >>> replace_tokens(1.0, special=(2,), by=3)(jax.random.key(0), example)["input_ids"].tolist()
      [2, 3, 3]
    """
    _check_rate(rate, "replace_tokens")
    if (by is None) == (vocabulary is None):
        raise ValueError(f"replace_tokens has by={by} and vocabulary={vocabulary}; give exactly one of them")
    ordinary = None if vocabulary is None else np.setdiff1d(np.arange(vocabulary), np.asarray(tuple(special), int))

    def change(key, example):
        ids = example["input_ids"]
        which, what = jax.random.split(key)
        new = by if ordinary is None else jax.random.choice(what, jnp.asarray(ordinary, ids.dtype), ids.shape)
        return {**example, "input_ids": jnp.where(_chosen(which, example, rate, special, keep_one=False), new, ids)}

    return change


def swap_tokens(swaps: int = 1, special: Collection[int] = ()) -> Augmentation:
    """Random swap: two tokens change places, `swaps` times.

    Wei and Zou 2019, arXiv:1901.11196, section 2.

    Args:
      swaps: how many.
      special: ids that stay where they are.

    Raises:
      ValueError: fewer than one swap.
    """
    if swaps < 1:
        raise ValueError(f"swap_tokens makes {swaps} swaps; give it at least 1")

    def change(key, example):
        ids = example["input_ids"]
        may = _real(example) & ~_special(ids, special)
        chances = jnp.where(may, 0.0, -jnp.inf)
        pairs = jax.random.categorical(key, jnp.where(jnp.any(may), chances, 0.0), shape=(swaps, 2))

        def swap(order, pair):
            one, other = pair
            return order.at[one].set(order[other]).at[other].set(order[one]), None

        order, _ = jax.lax.scan(swap, jnp.arange(ids.shape[0]), pairs)
        return {**example, "input_ids": jnp.where(jnp.any(may), ids[order], ids)}

    return change


@dataclasses.dataclass(frozen=True, eq=False)
class WordStatistics:
    """How much each token of a vocabulary tells, over a set of texts.

    Attributes:
      inverse_document_frequency: ``log(texts / texts with the token)``, ``[vocabulary]``, 0 for unseen tokens.
      chances: of being put in by `replace_uninformative`, ``[vocabulary]``, summing to 1.
    """

    inverse_document_frequency: np.ndarray
    chances: np.ndarray


def word_statistics(texts: Iterable[np.ndarray], vocabulary: int, special: Collection[int] = ()) -> WordStatistics:
    """The statistics of tokenised texts for `replace_uninformative`.

    With ``score(w) = Σ over texts of (share of w in the text) · idf(w)``, a token's chance of being put in is in
    proportion to ``max score - score(w)``, as in the authors' code (Xie et al. 2019, appendix B, with the frequency
    normalised by the text's length); tokens that occur in no text have none.

    Args:
      texts: token ids of each.
      vocabulary: number of ids.
      special: ids that don't count as words.

    Raises:
      ValueError: no text with a word.
    """
    special = np.asarray(tuple(special), dtype=int)
    shares, found, count = np.zeros(vocabulary), np.zeros(vocabulary), 0
    for text in texts:
        words = np.asarray(text)[~np.isin(text, special)]
        if not len(words):
            continue
        count += 1
        times = np.bincount(words, minlength=vocabulary)
        shares += times / len(words)
        found += times > 0
    if not count:
        raise ValueError("word_statistics was given no text with a word in it; give it the training texts")
    idf = np.where(found > 0, np.log(count / np.maximum(found, 1)), 0.0)
    score = shares * idf
    chances = np.where(found > 0, score.max() - score, 0.0)
    chances = chances if chances.sum() > 0 else (found > 0).astype(float)
    return WordStatistics(idf.astype(np.float32), (chances / chances.sum()).astype(np.float32))


def replace_uninformative(rate: float, statistics: WordStatistics, special: Collection[int] = ()) -> Augmentation:
    """TF-IDF word replacement: tokens that tell little are replaced by others that tell little.

    Xie et al. 2019, "Unsupervised Data Augmentation", arXiv:1904.12848, appendix B: of ``n`` words with scores
    ``t_i = (share of the word in the text) · idf`` word ``i`` is replaced with the chance
    ``min(rate · n · (max t - t_i) / Σ_j (max t - t_j), 1)``.

    Args:
      rate: the share of words to replace.
      statistics: of the training texts, see `word_statistics`.
      special: ids that are never replaced.

    Raises:
      ValueError: a rate outside 0 to 1.
    """
    _check_rate(rate, "replace_uninformative")
    cumulative = np.cumsum(statistics.chances, dtype=np.float64).astype(np.float32)

    def change(key, example):
        ids = example["input_ids"]
        may = _real(example) & ~_special(ids, special)
        words = jnp.maximum(jnp.sum(may), 1)
        same = (ids[:, None] == ids[None, :]) & may[None, :]
        scores = jnp.sum(same, axis=1) / words * jnp.asarray(statistics.inverse_document_frequency)[ids]
        gaps = jnp.where(may, jnp.max(jnp.where(may, scores, -jnp.inf)) - scores, 0.0)
        chances = rate * words * gaps / jnp.maximum(jnp.sum(gaps), 1e-12)
        which, what = jax.random.split(key)
        replaced = may & (jax.random.uniform(which, ids.shape) < chances)
        # Drawing by the cumulative chances needs no noise for every word of the vocabulary.
        new = jnp.searchsorted(jnp.asarray(cumulative), jax.random.uniform(what, ids.shape), side="right")
        new = jnp.minimum(new, cumulative.shape[0] - 1).astype(ids.dtype)
        return {**example, "input_ids": jnp.where(replaced, new, ids)}

    return change


def _check_rate(rate: float, name: str) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"{name} has rate {rate}; give it a chance from 0 to 1")


def _real(example: Mapping[str, Any]):
    mask = example.get("attention_mask")
    return jnp.ones(example["input_ids"].shape, bool) if mask is None else mask > 0


def _special(ids, special: Collection[int]):
    return jnp.isin(ids, jnp.asarray(tuple(special), ids.dtype)) if special else jnp.zeros(ids.shape, bool)


def _chosen(key, example, rate, special, keep_one: bool = True):
    """The tokens that fall to a chance of `rate`; where that would be all ordinary ones, the first is let off."""
    may = _real(example) & ~_special(example["input_ids"], special)
    chosen = may & jax.random.bernoulli(key, rate, may.shape)
    if not keep_one:
        return chosen
    all_gone = jnp.all(chosen == may)
    return chosen & ~(all_gone & (jnp.arange(len(may)) == jnp.argmax(may)))


def _of_tokens(x, ids) -> bool:
    return jnp.shape(x) == ids.shape


def _mask_type(example, ids):
    mask = example.get("attention_mask")
    return ids.dtype if mask is None else mask.dtype
