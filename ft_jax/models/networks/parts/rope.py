"""Rotary positions: frequencies, their scalings for long contexts, and the turning of heads."""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class RopeScaling:
    """A change of the rotary frequencies for contexts longer than those trained on.

    `magnitude` multiplies queries and keys (as YaRN and LongRoPE ask for), 1 by default.
    """

    def frequencies(self, theta: float, width: int, longest: Int[Array, ""]) -> Float[Array, " half"]:
        """The frequencies of the ``width / 2`` pairs.

        Args:
          theta: the base.
          width: how many of a head's numbers are turned.
          longest: the length of the batch's longest sequence, as its positions say.
        """
        raise NotImplementedError

    @property
    def magnitude(self) -> float:
        """Factor on cosine and sine."""
        return 1.0


def plain_frequencies(theta, width: int) -> Float[Array, " half"]:
    """``theta^(-2i / width)``: Su et al. 2021, "RoFormer", arXiv:2104.09864, equation 15."""
    return theta ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)


@dataclasses.dataclass(frozen=True)
class Linear(RopeScaling):
    """Positions divided by `factor`: Chen et al. 2023, "Position Interpolation", arXiv:2306.15595."""

    factor: float

    def frequencies(self, theta, width, longest):
        return plain_frequencies(theta, width) / self.factor


@dataclasses.dataclass(frozen=True)
class Dynamic(RopeScaling):
    """A base that grows with the sequence beyond `original_positions` (the "dynamic NTK" of Llama forks).

    ``theta · (factor · longest / original_positions − (factor − 1))^(width / (width − 2))``.
    """

    factor: float
    original_positions: int

    def frequencies(self, theta, width, longest):
        longest = jnp.maximum(longest, self.original_positions)
        grown = self.factor * longest / self.original_positions - (self.factor - 1)
        return plain_frequencies(theta * grown ** (width / (width - 2)), width)


@dataclasses.dataclass(frozen=True)
class Llama3(RopeScaling):
    """Grattafiori et al. 2024, "The Llama 3 Herd of Models", arXiv:2407.21783.

    Wavelengths above ``original_positions / low_frequency_factor`` are stretched by `factor`, those below
    ``original_positions / high_frequency_factor`` stay, and between them the two are mixed linearly.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_positions: int

    def frequencies(self, theta, width, longest):
        frequencies = plain_frequencies(theta, width)
        wavelengths = 2 * math.pi / frequencies
        span = self.high_frequency_factor - self.low_frequency_factor
        mix = (self.original_positions / wavelengths - self.low_frequency_factor) / span
        mix = jnp.clip(mix, 0.0, 1.0)
        return (1 - mix) * frequencies / self.factor + mix * frequencies


@dataclasses.dataclass(frozen=True)
class Yarn(RopeScaling):
    """Peng et al. 2023, "YaRN", arXiv:2309.00071, section 3.2: interpolation by parts, and warmer attention.

    Pairs that turn more than `fast` times in `original_positions` stay, those that turn less than `slow` times
    are stretched by `factor`, and between them a ramp over the pairs mixes the two. Queries and keys are
    multiplied by `attention_factor`, by default ``0.1 · log(factor) + 1``.
    """

    factor: float
    original_positions: int
    fast: float = 32.0
    slow: float = 1.0
    attention_factor: float | None = None
    whole: bool = True

    def frequencies(self, theta, width, longest):
        def pair(turns):
            return width * math.log(self.original_positions / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = pair(self.fast), pair(self.slow)
        if self.whole:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        ramp = jnp.clip((jnp.arange(width // 2, dtype=jnp.float32) - low) / max(high - low, 0.001), 0.0, 1.0)
        plain = plain_frequencies(theta, width)
        return plain / self.factor * ramp + plain * (1 - ramp)

    @property
    def magnitude(self):
        if self.attention_factor is not None:
            return self.attention_factor
        return 1.0 if self.factor <= 1 else 0.1 * math.log(self.factor) + 1.0


@dataclasses.dataclass(frozen=True)
class LongRope(RopeScaling):
    """Ding et al. 2024, "LongRoPE", arXiv:2402.13753: a searched stretch for each pair, as Phi-3 has them.

    Sequences of up to `original_positions` take the `short` divisors, longer ones the `long` ones; queries and
    keys are multiplied by `attention_factor`, by default ``√(1 + log(factor) / log(original_positions))``.
    """

    factor: float
    original_positions: int
    short: tuple[float, ...]
    long: tuple[float, ...]
    attention_factor: float | None = None

    def frequencies(self, theta, width, longest):
        divisors = jnp.where(longest > self.original_positions, jnp.array(self.long), jnp.array(self.short))
        return plain_frequencies(theta, width) / divisors

    @property
    def magnitude(self):
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor <= 1:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_positions))


def rotary_angles(
    positions: Int[Array, "batch time"], width: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[Float[Array, "batch time 1 half"], Float[Array, "batch time 1 half"]]:
    """Cosine and sine of ``position · frequency`` of each pair, float32.

    Args:
      positions: of the tokens.
      width: how many of a head's numbers are turned, even.
      theta: base of the frequencies.
      scaling: how they change for long contexts, or None.
    """
    if scaling is None:
        frequencies, magnitude = plain_frequencies(theta, width), 1.0
    else:
        frequencies, magnitude = scaling.frequencies(theta, width, positions.max() + 1), scaling.magnitude
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude


def rotate(x: Float[Array, "batch time heads head_width"], angles) -> Float[Array, "batch time heads head_width"]:
    """Pairs ``(x[i], x[i + half])`` turned by the angles, in float32; numbers beyond the angles' pairs stay.

    Example:
      >>> quarter = jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1, 1))
      >>> rotate(jnp.array([[[[1.0, 0.0, 7.0]]]]), quarter).tolist()
      [[[[0.0, 1.0, 7.0]]]]
    """
    cosine, sine = angles
    half = cosine.shape[-1]
    first, second = (part.astype(jnp.float32) for part in (x[..., :half], x[..., half : 2 * half]))
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return jnp.concatenate([*(part.astype(x.dtype) for part in turned), x[..., 2 * half :]], axis=-1)
