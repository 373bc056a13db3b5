"""Where a vision transformer looks: attention over the patches of images."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

MAPS = re.compile(r"(?:vision/)?attention/(\d+)")


def patch_attention(model: Any, params: Any, images: np.ndarray) -> np.ndarray | None:
    """How much the image tower's last layer attends to each patch, ``[images, rows, columns]``, summing to 1.

    The mean over the heads of the class token's attention; of a tower without one, the mean over all patches'.

    Args:
      model: a vision transformer, one with two towers (CLIP), a vision-language model, or `ft_jax.multimodal.model`
        with an encoder called ``image``.
      params: its parameters, operators allowed.
      images: ``[images, height, width, channels]`` as the model reads them.

    Returns:
      None for a model without such a tower, or one whose layers run in a scan.

    Example:
      >>> from ft_jax import models
      >>> network = models.vit(models.ViTConfig((8, 8, 1), 4, 16, 1, 2, 16), jax.random.key(0))
      >>> looked = patch_attention(network, network.params, np.zeros((2, 8, 8, 1), np.float32))
      >>> looked.shape, looked.sum(axis=(1, 2)).round(3).tolist()
      ((2, 2, 2), [1.0, 1.0])
    """
    found = _tower(model, params)
    if found is None:
        return None
    forward, params, config = found
    batch = {"images": np.asarray(images, np.float32)}
    token = getattr(forward.config, "image_token", None)
    if token is not None:
        batch["input_ids"] = np.full((len(images), forward.config.image_tokens), token, np.int32)
    collecting = forward.collecting(("attention",))
    states = jax.jit(lambda params, batch: collecting(params, batch, None).states)(params, batch)
    layers = {int(match[1]): name for name in states if (match := MAPS.fullmatch(name))}
    if not layers:
        return None
    maps = np.asarray(states[layers[max(layers)]], np.float32).mean(axis=1)  # [images, queries, keys]
    maps = maps[:, -config.patches - config.class_token :, -config.patches :]
    looked = maps[:, 0] if config.class_token else maps.mean(axis=1)
    height, width = (side // config.patch for side in config.image[:2])
    looked = looked.reshape(-1, height, width)
    return looked / np.maximum(looked.sum(axis=(1, 2), keepdims=True), 1e-9)


def _tower(model: Any, params: Mapping[str, Any]):
    """The forward function that sees images, its parameters and the tower's configuration."""
    config = getattr(model, "config", None)
    if hasattr(config, "encoders"):
        encoders = dict(config.encoders)
        held = "image" in encoders and hasattr(encoders["image"].config, "patches")
        return (encoders["image"], params["encoders"]["image"], encoders["image"].config) if held else None
    tower = getattr(config, "vision", config)
    known = hasattr(tower, "patches") and hasattr(tower, "image") and hasattr(model.apply, "collecting")
    return (model.apply, params, tower) if known else None
