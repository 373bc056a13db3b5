"""Spherical interpolation."""

import numpy as np

from ft_jax.ensemble.merging.rule import Piece, Rule, merging_rule

STRAIGHT = 0.9995
"""Directions whose cosine's magnitude exceeds this are interpolated linearly."""


@merging_rule
def slerp(t: float = 0.5) -> Rule:
    """Goes from the first model to the second along the arc between them (Shoemake 1985).

    ``sin((1 - t) ω) / sin ω · a + sin(t ω) / sin ω · b``, where ω is the angle between the two tensors; linear where
    ``|cos ω| > 0.9995``. Lengths are interpolated with the directions, tensor by tensor. The models' weights play no
    part.

    Args:
      t: 0 is the first model, 1 the second.

    Raises:
      ValueError: `t` outside [0, 1].

    Example:
      >>> from ft_jax.ensemble import merging
      >>> models = [{"w": np.array([1.0, 0.0])}, {"w": np.array([0.0, 1.0])}]
      >>> merging.merge_trees(merging.slerp(0.5), models)["w"].round(4)
      array([0.7071, 0.7071])
    """
    if not 0 <= t <= 1:
        raise ValueError(f"slerp has t {t}; give a number from 0, the first model, to 1, the second")

    def combine(piece: Piece):
        a, b = piece.models
        lengths = [np.linalg.norm(x) for x in (a, b)]
        units = [x / (length if length > 1e-8 else 1.0) for x, length in zip((a, b), lengths, strict=True)]
        cosine = float(np.clip(np.sum(units[0] * units[1], dtype=np.float64), -1, 1))
        if abs(cosine) > STRAIGHT:
            return (1 - t) * a + t * b
        angle = np.arccos(cosine)
        return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)

    return Rule("slerp", combine, fewest=2, most=2)
