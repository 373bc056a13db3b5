"""Images and sounds out of files that nobody vouches for."""

import wave
from typing import Any

import numpy as np

from ft_jax.outside import Refused, printable, refusing

MOST_PIXELS = 1 << 26
"""Of an image; a file that claims more is not decoded."""

MOST_SECONDS = 3600
"""Of a sound."""


class Broken(Refused):
    """A file that is missing, damaged or of another kind; the message says how."""


def image_of(stream: Any, title: str, size: tuple[int, int], channels: int) -> np.ndarray:
    """The pixels of an image file, ``[height, width, channels]`` float32 in [0, 1].

    Args:
      stream: binary.
      title: how messages call it.
      size: ``(height, width)`` it is brought to.
      channels: 1 or 3.

    Raises:
      Broken: it is truncated, no image, or claims more than `MOST_PIXELS`.
      ImportError: Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("images in files need Pillow; install ft-jax[images]") from None
    with refusing(f"{title} is no whole image", kind=Broken), Image.open(stream) as image:
        if image.width * image.height > MOST_PIXELS:
            raise Broken(f"{title} claims {image.width} x {image.height} pixels and {MOST_PIXELS} are allowed")
        image.load()
        return _pixels(image, size, channels)


def resized(image: np.ndarray, size: tuple[int, int], channels: int) -> np.ndarray:
    """Decoded pixels ``[height, width, 1 or 3]``, bytes or floats in [0, 1], as `image_of` gives those of a file.

    Raises:
      Broken: an array of another shape.
      ImportError: Pillow is missing.

    Example:
      >>> resized(np.full((4, 4, 1), 255, np.uint8), (2, 2), 3).shape
      (2, 2, 3)
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("images need Pillow to be brought to a size; install ft-jax[images]") from None
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise Broken(f"an image has shape {image.shape}; give [height, width, 1 or 3]")
    whole = image if image.dtype == np.uint8 else np.clip(np.round(image * 255.0), 0, 255).astype(np.uint8)
    return _pixels(Image.fromarray(whole.squeeze(-1) if whole.shape[-1] == 1 else whole), size, channels)


def _pixels(image: Any, size: tuple[int, int], channels: int) -> np.ndarray:
    from PIL import Image

    small = image.convert("L" if channels == 1 else "RGB")
    if small.size != size[::-1]:
        small = small.resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32).reshape(*size, channels) / 255.0


def audio_of(stream: Any, title: str, rate: int, samples: int) -> np.ndarray:
    """The samples of a wav file, ``[samples]`` float32 in [-1, 1], its channels' mean.

    Args:
      stream: binary.
      title: how messages call it.
      rate: samples a second that it must have.
      samples: to which it is cut or filled with silence.

    Raises:
      Broken: it is truncated, no wav of whole numbers, of another rate, or longer than an hour.
    """
    with refusing(f"{title} is no whole wav file", kind=Broken), wave.open(stream, "rb") as file:
        found, width, channels, frames = (
            file.getframerate(), file.getsampwidth(), file.getnchannels(), file.getnframes(),
        )  # fmt: skip
        if found != rate:
            raise Broken(f"{title} has {found} samples a second and {rate} are asked for; resample it")
        if frames > MOST_SECONDS * rate:
            raise Broken(f"{title} claims {frames} samples, more than an hour; cut it")
        raw = file.readframes(frames)
    if len(raw) != frames * width * channels or not frames:
        raise Broken(f"{title} is truncated: it has {len(raw)} bytes of {frames * width * channels}")
    return _fitted(_numbers(raw, width, title).reshape(-1, channels).mean(axis=1), samples)


def _numbers(raw: bytes, width: int, title: str) -> np.ndarray:
    if width == 1:  # The one kind without a sign.
        return (np.frombuffer(raw, np.uint8).astype(np.float32) - 128.0) / 128.0
    if width == 2:
        return np.frombuffer(raw, "<i2").astype(np.float32) / 2.0**15
    if width == 3:
        wide = np.zeros((len(raw) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0].astype(np.float32) / 2.0**31
    if width == 4:
        return np.frombuffer(raw, "<i4").astype(np.float32) / 2.0**31
    raise Broken(f"{title} has {8 * width} bits a sample; write it with 8 to 32")


def _fitted(sound: np.ndarray, samples: int) -> np.ndarray:
    sound = sound[:samples].astype(np.float32)
    return np.pad(sound, (0, samples - len(sound)))


def image_places(prompt: str, count: int, mark: str = "<image>") -> str:
    """A prompt in which the image's one place is repeated as often as the image has tokens.

    Args:
      prompt: with `mark` once.
      count: of tokens (`ft_jax.models.VisionLanguageConfig.image_tokens`).
      mark: the image token as text.

    Raises:
      ValueError: the prompt has no place for its image, or more than one.

    Example:
      >>> image_places("<image> What is it?", 3)
      '<image><image><image> What is it?'
    """
    places = prompt.count(mark)
    if places != 1:
        raise ValueError(f"prompt {printable(prompt)} has {places} places for its image; write {mark} in it once")
    return prompt.replace(mark, mark * count)
