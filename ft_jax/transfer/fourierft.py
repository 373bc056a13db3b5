"""Fourier-transform fine-tuning: an update with few frequencies."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ft_jax.core.adapters import Targets, map_operators, per_path
from ft_jax.core.catalogue import register
from ft_jax.core.method import Method
from ft_jax.core.weights import Weight, materialize, matmul, shape
from ft_jax.core.weights.operator import operator
from ft_jax.transfer.adapter import adapter
from ft_jax.transfer.strength import NONE

STARTS = ("normal", "zeros")


@operator("seed", "owner")
class Spectral(Weight):
    """``base + scale · Re(F⁻¹(e))``: the spectrum ``e`` is `spectrum` at the `places` of a seed and zero elsewhere.

    Gao et al. 2024, "Parameter-Efficient Fine-Tuning with Discrete Fourier Transform", arXiv:2405.03003, equations 2
    to 4; ``F⁻¹`` is the inverse discrete Fourier transform in both directions, divided by their product.
    """

    base: Any
    spectrum: Float[Array, " frequencies"]
    scale: Float[Array, ""]
    seed: int = 777
    owner: str = ""

    def matmul(self, x, bias=None):
        return matmul(self.base, x, bias) + x @ self.change().astype(x.dtype)

    def materialize(self):
        base = materialize(self.base)
        return base + self.change().astype(base.dtype)

    def change(self) -> Float[Array, "inputs outputs"]:
        """What is added to the base."""
        rows, columns = places(self.seed, *shape(self.base), self.spectrum.shape[0])
        dense = jnp.zeros(shape(self.base)).at[rows, columns].set(self.spectrum.astype(jnp.float32))
        return self.scale * jnp.fft.ifft2(dense).real

    @property
    def shape(self):
        return shape(self.base)


@register(
    "transfer",
    paper="Gao et al. 2024, arXiv:2405.03003, equations 2 to 4",
    example=lambda problem: fourierft(frequencies=12, also=("*/head/*",), start="zeros"),
    neutral="it replaces what learns by its spectra, so no value of scale trains like the step without it",
)
def fourierft(
    frequencies: int = 1000,
    scale: float = 150.0,
    targets: str | Iterable[str] | Targets = "all-linear",
    also: tuple[str, ...] = (),
    counts: Mapping[str, int] = NONE,
    *,
    seed: int = 777,
    start: str = "normal",
    name: str = "transfer.fourierft",
) -> Method:
    """Learns a few coefficients of the spectrum of each chosen projection's update.

    A weight ``w [inputs, outputs]`` becomes ``w + scale · Re(F⁻¹(e))``, where ``e`` is zero but at `frequencies` random
    places, the same for all weights of a shape. A weight has as many numbers that learn, whatever its size: of RoBERTa
    large about a hundredth of LoRA's.

    Args:
      frequencies: how many coefficients a weight learns.
      scale: the paper's α, data in ``hyper``: changing it compiles nothing.
      targets, also: as in `ft_jax.transfer.lora`.
      counts: other numbers of frequencies by pattern over the weights' paths, the first that fits counts.
      seed: of the places, which are those that peft draws with it.
      start: ``"normal"``, coefficients from N(0, 1) as in the paper and peft, so that training starts near the
        pretrained function; ``"zeros"``, at it.
      name: the method's name.

    Raises:
      ValueError: fewer than 1 frequency, another start; at init, more of them than a weight has numbers, or patterns
        that fit nothing.

    Example:
      >>> params = {"model": {"mlp": {"up": {"kernel": jnp.ones((4, 6))}}}}
      >>> kernel = fourierft(3).surgery(params, jax.random.key(0))["model"]["mlp"]["up"]["kernel"]
      >>> kernel.spectrum.shape, kernel.change().shape
      ((3,), (4, 6))
    """
    for count in (frequencies, *counts.values()):
        if count < 1:
            raise ValueError(f"{name} has {count} frequencies; give it at least 1")
    if start not in STARTS:
        raise ValueError(f"{name} has start {start!r}; use {' or '.join(map(repr, STARTS))}")

    def sparse(path, matrix, key):
        count, (inputs, outputs) = per_path(path, frequencies, counts), shape(matrix)
        if count > inputs * outputs:
            raise ValueError(
                f"{name} has {count} frequencies, but {path} has {inputs * outputs} numbers; use at most as many, or "
                "leave it out of targets"
            )
        spectrum = jax.random.normal(key, (count,)) if start == "normal" else jnp.zeros((count,))
        return Spectral(matrix, spectrum, jnp.float32(scale), seed, name)

    def view(params, context):
        def shown(weight):
            own = jnp.broadcast_to(context.hyper[name]["scale"], jnp.shape(weight.scale))
            return dataclasses.replace(weight, scale=own)

        return {**params, **map_operators(shown, {"model": params["model"]}, owner=name)}

    return adapter(name, sparse, ("spectrum",), targets, also, hyper={"scale": scale}, view=view)


@functools.lru_cache(maxsize=256)
def places(seed: int, inputs: int, outputs: int, count: int) -> np.ndarray:
    """``[2, count]``: the rows and columns of `count` numbers of a matrix ``[inputs, outputs]``, none twice.

    They are the first of torch's ``randperm(outputs · inputs)``, a shuffle by the Mersenne twister's 32-bit words,
    whose quotients and remainders by `inputs` are the outputs and inputs.

    Example:
      >>> places(777, 4, 6, 3).shape
      (2, 3)
    """
    bits, total = np.random.RandomState(seed), inputs * outputs
    words = bits.randint(0, 2**32, size=count, dtype=np.uint64)
    moved: dict[int, int] = {}
    chosen = np.empty(count, np.int64)
    for at, word in enumerate(words):
        other = at + int(word) % (total - at)
        chosen[at] = moved.get(other, other)
        moved[other] = moved.get(at, at)
    return np.stack([chosen % inputs, chosen // inputs]).astype(np.int32)
