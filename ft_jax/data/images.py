"""Small image sets: scikit-learn's digits, and MNIST from TFDS or from a file."""

from pathlib import Path

import numpy as np

from ft_jax import assets
from ft_jax.data.dataset import Computed, Dataset
from ft_jax.data.tables import read_npz
from ft_jax.data.tfds import from_tfds
from ft_jax.outside import listed, printable

DIGITS = tuple(str(digit) for digit in range(10))
DIGITS_SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}
MNIST_TRAIN_SHARE = 0.8


def digits(split: str | None = None) -> Dataset:
    """Scikit-learn's bundled handwritten digits: 1,797 real images of 8 by 8 pixels.

    Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits" (UCI Machine Learning Repository).

    Args:
      split: ``train``, ``validation`` or ``test`` (about 80, 10 and 10 per cent, by a digest of the image's
        position); None for all.

    Returns:
      ``images [examples, 8, 8, 1]`` float32 in [0, 1], and ``labels``.

    Raises:
      ValueError: there is no such split.

    Example:
      >>> digits()
      Dataset(1797 examples of images, labels, classes=('0', '1', '2', '3', '4', '5', '6', '7', '8', '9'))
    """
    if split is not None and split not in DIGITS_SPLITS:
        raise ValueError(f"digits has no split {printable(split)}; take one of {', '.join(DIGITS_SPLITS)}")
    from sklearn.datasets import load_digits

    bundled = load_digits()
    images = (bundled.images / 16.0).astype(np.float32)[..., None]
    dataset = Dataset({"images": images, "labels": bundled.target.astype(np.int32)}, DIGITS)
    return dataset if split is None else dataset.split(DIGITS_SPLITS)[split]


def mnist(source: str | Path = "tfds:mnist", split: str | None = None) -> Dataset:
    """MNIST: handwritten digits of 28 by 28 pixels.

    LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition".

    Args:
      source: ``tfds:mnist``, or an address of a ``.npz`` file with ``images`` (``[examples, 28, 28]``, 0 to 255) and
        ``labels``; of such a file the first 80 per cent are ``train`` and the rest is ``test``.
      split: ``train`` or ``test``; None for both.

    Returns:
      ``images [examples, 28, 28, 1]`` float32 in [0, 1], and ``labels``.

    Raises:
      ValueError: there is no such split, or the file is not of that form.
      FileNotFoundError: there is no such file.
    """
    if split not in (None, "train", "test"):
        raise ValueError(f"mnist has no split {printable(split)}; take train or test")
    if str(source).startswith("tfds:"):
        dataset = from_tfds(str(source), split or "train+test")
        images = dataset.column("images")
        scaled = Computed(len(images), lambda index: np.asarray(images[index], dtype=np.float32) / 255.0)
        return dataset.with_columns(images=scaled)
    path = assets.resolve(source)
    file = read_npz(path)
    if not {"images", "labels"} <= set(file):
        raise ValueError(f"{path} has {listed(file)}; an MNIST file needs the arrays images and labels")
    images, labels = file["images"], file["labels"]
    if labels.ndim != 1 or images.shape != (len(labels), 28, 28) or {images.dtype.kind, labels.dtype.kind} - set("iuf"):
        raise ValueError(
            f"{path} has images {images.dtype}{list(images.shape)} and labels {labels.dtype}{list(labels.shape)}; give "
            "numbers, 28 by 28 for each label"
        )
    edge = int(len(images) * MNIST_TRAIN_SHARE)
    part = {None: slice(None), "train": slice(edge), "test": slice(edge, None)}[split]
    scaled = images[part].reshape(-1, 28, 28, 1).astype(np.float32) / 255.0
    return Dataset({"images": scaled, "labels": labels[part].astype(np.int32)}, DIGITS)
