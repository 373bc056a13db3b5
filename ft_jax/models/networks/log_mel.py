"""Log-mel spectra of sound, as Whisper reads them."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

RATE, WINDOW, HOP = 16000, 400, 160
"""Samples a second, in a window, and between windows."""


def log_mel(audio: Float[Array, "batch samples"], bins: int = 80, samples: int | None = None) -> Array:
    """Whisper's features of sound at 16 kHz.

    Radford et al. 2022, arXiv:2212.04356, section 2.2: ``max(log10(mel @ |stft|²), top - 8) / 4 + 1``, where `top`
    is the largest value of each sound. Windows are centred, and the sound is mirrored at its ends.

    Args:
      audio: between -1 and 1.
      bins: of the mel scale.
      samples: to which the sound is cut or filled up with silence (30 seconds are 480,000); None for as it is.

    Returns:
      ``[batch, bins, samples // 160]``.

    Raises:
      ValueError: where the sound is shorter than half a window.

    Example:
      >>> log_mel(jnp.zeros((1, 16000))).shape
      (1, 80, 100)
    """
    audio = jnp.asarray(audio, jnp.float32)
    if samples is not None:
        audio = audio[:, :samples]
        audio = jnp.pad(audio, ((0, 0), (0, samples - audio.shape[1])))
    if audio.shape[1] <= WINDOW // 2:
        raise ValueError(f"audio has {audio.shape[1]} samples and a window takes {WINDOW}; give it longer sounds")
    padded = jnp.pad(audio, ((0, 0), (WINDOW // 2, WINDOW // 2)), mode="reflect")
    starts = jnp.arange(audio.shape[1] // HOP) * HOP
    frames = padded[:, starts[:, None] + jnp.arange(WINDOW)]
    window = jnp.asarray(np.hanning(WINDOW + 1)[:-1], jnp.float32)
    power = jnp.square(jnp.abs(jnp.fft.rfft(frames * window, axis=-1)))
    mels = jnp.einsum("btf,fm->bmt", power, jnp.asarray(mel_filters(bins)), precision="highest")
    logs = jnp.log10(jnp.maximum(mels, 1e-10))
    floor = logs.max(axis=(1, 2), keepdims=True) - 8.0
    return (jnp.maximum(logs, floor) + 4.0) / 4.0


@functools.lru_cache(maxsize=8)
def mel_filters(bins: int) -> np.ndarray:
    """Triangles ``[WINDOW / 2 + 1, bins]`` on Slaney's mel scale, each of unit area.

    Slaney 1998, "Auditory Toolbox", linear below 1 kHz and logarithmic above.

    Example:
      >>> mel_filters(80).shape
      (201, 80)
    """
    frequencies = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    edges = _hertz(np.linspace(_mel(0.0), _mel(RATE / 2), bins + 2))
    widths = np.diff(edges)
    slopes = edges[None, :] - frequencies[:, None]
    rising, falling = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))).astype(np.float32)


def _mel(hertz: float) -> float:
    return 3.0 * hertz / 200.0 if hertz < 1000.0 else 15.0 + np.log(hertz / 1000.0) * 27.0 / np.log(6.4)


def _hertz(mels: np.ndarray) -> np.ndarray:
    return np.where(mels < 15.0, 200.0 * mels / 3.0, 1000.0 * np.exp(np.log(6.4) / 27.0 * (mels - 15.0)))
