"""Pictures with labels as arrays, for experiments that drive a step by themselves."""

import numpy as np

from ft_jax import data

Part = tuple[np.ndarray, np.ndarray]
"""Inputs ``[examples, ...]`` and labels ``[examples]``."""


def pictures(address: str, split: str | None = None) -> Part:
    """``images [examples, height, width, 1]`` and whole labels of `ft_jax.data.load`, all where no split is named.

    Example:
      >>> images, labels = pictures("digits", "test")
      >>> images.shape[1:], images.dtype == np.float32, labels.max()
      ((8, 8, 1), True, np.int32(9))
    """
    found = data.load(address, split)
    images = np.asarray([found.column("images")[row] for row in range(len(found))], np.float32)
    return images.reshape(*images.shape[:3], 1), np.asarray(found.column("labels"), np.int32)
