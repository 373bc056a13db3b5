"""From an address to a data set."""

from pathlib import Path

from ft_jax.data.dataset import Dataset
from ft_jax.data.files import from_file
from ft_jax.data.images import digits, mnist
from ft_jax.data.sentiment import sentiment
from ft_jax.data.tfds import from_tfds
from ft_jax.outside import printable


def load(address: str | Path, split: str | None = None, quotes: bool | None = None) -> Dataset:
    """The data set that an address names.

    | address | what it names |
    | --- | --- |
    | ``sentiment:movies`` (``amazon``, ``news``, ``tweets``) | sentences with labels, see `sentiment` |
    | ``digits`` | scikit-learn's digits, see `digits` |
    | ``mnist``, ``mnist:path/to.npz`` | MNIST, from TFDS or from a file, see `mnist` |
    | ``tfds:name[:split]`` | a set of tensorflow-datasets, see `from_tfds` |
    | a path, ``pkg://…`` or ``hf://…`` of a file | jsonl, json, csv, tsv, parquet or npz, see `from_file` |

    Args:
      address: as above.
      split: ``train``, ``validation`` or ``test`` where the set has it; None for all of it.
      quotes: how a csv or tsv is read, see `from_file`; None for other sets.

    Raises:
      ValueError: the address is of no known form, or the set has no such split.
      FileNotFoundError: the set isn't on this computer and can't be fetched.

    Example:
      >>> load("digits", split="train")[0]["images"].shape
      (8, 8, 1)
    """
    text = str(address)
    kind, _, rest = text.partition(":")
    if quotes is not None and (text == "digits" or kind in ("sentiment", "mnist", "tfds")):
        raise ValueError(f"quotes={quotes} is for csv and tsv files, and {printable(text)} is none; leave quotes out")
    if kind == "sentiment":
        return sentiment(rest, split)
    if text == "digits":
        return digits(split)
    if kind == "mnist":
        return mnist(rest or "tfds:mnist", split)
    if kind == "tfds":
        return from_tfds(text, split)
    return from_file(address, split, quotes)
