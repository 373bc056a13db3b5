"""Four domains of English sentences with sentiment ratings by people: one small real set for many kinds of study."""

from collections.abc import Mapping

import numpy as np

from ft_jax import assets
from ft_jax.data.dataset import Dataset
from ft_jax.outside import printable

DOMAINS: Mapping[str, str] = {
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "news": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
"""The domains, and the file that each is in."""

CLASSES = ("negative", "positive")
SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}
"""Shares of the fixed splits; a sentence's split is decided by a digest of its text, so no sentence is in two."""

LEAST_RATING = 0.5


def sentiment(domain: str, split: str | None = None) -> Dataset:
    """Sentences of one domain that people found positive or negative.

    Hutto and Gilbert 2014, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text"
    (ICWSM): every sentence has the mean rating of about 20 people from -4 to 4. Kept are those with
    ``|ratings| >= 0.5``: 10,072 of movies, 2,985 of amazon, 2,970 of news and 3,432 of tweets.

    Args:
      domain: ``movies`` (film reviews), ``amazon`` (product reviews), ``news`` (New York Times editorials) or
        ``tweets``.
      split: ``train``, ``validation`` or ``test`` (about 80, 10 and 10 per cent); None for all.

    Returns:
      ``id``, ``text``, ``ratings`` (float32) and ``labels``: 1 where the rating is positive, else 0.

    Raises:
      ValueError: there is no such domain or split.
      AssetUnavailable: the data isn't on this computer and can't be fetched.
    """
    everything = unlabelled(domain, split)
    kept = everything.take(np.flatnonzero(np.abs(everything.columns["ratings"]) >= LEAST_RATING))
    labels = (kept.columns["ratings"] > 0).astype(np.int32)
    return Dataset({**kept.columns, "labels": labels}, CLASSES)


def unlabelled(domain: str, split: str | None = None) -> Dataset:
    """All sentences of one domain, those with ratings near 0 too, split as `sentiment` splits them.

    There are 10,605 of movies, 3,708 of amazon, 5,190 of news and 4,200 of tweets.

    Args:
      domain: as for `sentiment`.
      split: as for `sentiment`.

    Returns:
      ``id``, ``text`` and ``ratings``.

    Raises:
      ValueError: there is no such domain or split.
      AssetUnavailable: the data isn't on this computer and can't be fetched.
    """
    if domain not in DOMAINS:
        raise ValueError(f"there is no sentiment domain {printable(domain)}; take one of {', '.join(DOMAINS)}")
    if split is not None and split not in SPLITS:
        raise ValueError(f"sentiment has no split {printable(split)}; take one of {', '.join(SPLITS)}")
    text = (assets.resolve(assets.SENTIMENT) / DOMAINS[domain]).read_text(encoding="utf-8-sig")
    rows = [line.split("\t") for line in text.splitlines()]
    dataset = Dataset(
        {
            "id": [row[0] for row in rows],
            "text": [row[2] for row in rows],
            "ratings": np.array([row[1] for row in rows], dtype=np.float32),
        }
    )
    return dataset if split is None else dataset.split(SPLITS, by="text")[split]
