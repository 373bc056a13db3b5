"""Sums of task vectors, whole, trimmed or dropped out, with or without an election of signs."""

import numpy as np

from ft_jax.ensemble.merging.rule import Piece, Rule, merging_rule, within
from ft_jax.ensemble.merging.sparse import check_rescale, keep, magnitude_at, magnitude_probabilities, trim


@merging_rule
def task_arithmetic(scale: float = 1.0, normalize: bool = False) -> Rule:
    """``base + scale · Σ_k w_k (models_k - base)`` (Ilharco et al. 2023, arXiv:2212.04089).

    Args:
      scale: λ of the paper.
      normalize: divide by the weights' sum.

    Example:
      >>> from ft_jax.ensemble import merging
      >>> models = [{"w": np.array([2.0])}, {"w": np.array([0.0])}]
      >>> merging.merge_trees(merging.task_arithmetic(), models, base={"w": np.array([1.0])}, weights=(1, 0.5))
      {'w': array([1.5])}
    """

    def combine(piece: Piece):
        return piece.base + scale * total(piece.vectors, piece.weights, elect=False, normalize=normalize)

    def coefficients(weights):
        return scale * weights / (divisor(weights.sum()) if normalize else 1.0)

    return Rule("task_arithmetic", combine, base=True, coefficients=coefficients)


@merging_rule
def ties(density: float = 0.2, scale: float = 1.0, normalize: bool = True, trim_over: str = "tensor") -> Rule:
    """Trims task vectors, elects each entry's sign, averages those that agree (Yadav et al. 2023, arXiv:2306.01708).

    Of each task vector the `density` largest magnitudes stay. With ``v_k = w_k · trimmed_k``, an entry's sign is that
    of ``Σ_k v_k`` (at 0, +), and its value is ``Σ v_k / Σ w_k`` over the models with that sign; times `scale`, it is
    added to the base. peft's ``ties`` elects before it weights and divides by the number of models: the same where
    the weights are 1.

    Args:
      density: the share that stays.
      scale: λ of the paper.
      normalize: divide by the weights of the models that agree; off, they are added up.
      trim_over: ``"tensor"``, each to its own share (as mergekit), or ``"model"``, the largest of the whole model (the
        paper's code), for which the files are read twice more.

    Raises:
      ValueError: a density outside (0, 1] or an unknown `trim_over`.

    Example:
      >>> from ft_jax.ensemble import merging
      >>> models = [{"w": np.array([3.0, 0.1])}, {"w": np.array([-1.0, 2.0])}]
      >>> merging.merge_trees(merging.ties(density=0.5), models, base={"w": np.zeros(2)})
      {'w': array([3., 2.])}
    """
    within("ties", "density", density, 0.0, 1.0)
    if trim_over not in ("tensor", "model"):
        raise ValueError(f"ties can't trim over {trim_over!r}; use 'tensor' or 'model'")

    def survey(pieces):
        def vectors(model):
            return lambda: (piece.models[model] - piece.base for piece in pieces())

        count = len(next(pieces()).models)
        return [magnitude_at(vectors(model), density) for model in range(count)]

    def combine(piece: Piece):
        trimmed = piece.vectors
        for model, vector in enumerate(trimmed):
            kept = trim(vector, density) if trim_over == "tensor" else np.abs(vector) >= piece.notes[model]
            trimmed[model] = keep(vector, kept, "none", density)
        return piece.base + scale * total(trimmed, piece.weights, elect=True, normalize=normalize)

    return Rule("ties", combine, base=True, survey=survey if trim_over == "model" and density < 1 else None)


@merging_rule
def dare(
    density: float = 0.5,
    elect: bool = False,
    rescale: str = "density",
    scale: float = 1.0,
    normalize: bool = False,
    seed: int = 0,
) -> Rule:
    """Drops entries of task vectors at random and rescales the rest, then adds up (Yu et al. 2024, arXiv:2311.03099).

    Args:
      density: the chance of each entry to stay, ``1 - p`` of the paper.
      elect: elect signs as `ties` does before the sum.
      rescale: ``"density"`` divides by it (the paper and peft), ``"l1"`` restores the sum of magnitudes (mergekit),
        ``"none"``.
      scale: of the sum.
      normalize: divide by the weights, with `elect` by those of the models that agree.
      seed: of the draws; the same for the same tensor, whatever the others.

    Raises:
      ValueError: a density outside (0, 1] or an unknown way to rescale.

    Example:
      >>> from ft_jax.ensemble import merging
      >>> merging.merge_trees(merging.dare(0.5), [{"w": np.ones(6)}], base={"w": np.zeros(6)})["w"].tolist()
      [0.0, 0.0, 2.0, 2.0, 0.0, 2.0]
    """
    within("dare", "density", density, 0.0, 1.0)
    check_rescale("dare", rescale)

    def combine(piece: Piece):
        vectors = piece.vectors
        for model, vector in enumerate(vectors):
            kept = piece.generator(seed, model).random(vector.shape, np.float32) < density
            vectors[model] = keep(vector, kept, rescale, density)
        return piece.base + scale * total(vectors, piece.weights, elect, normalize)

    return Rule("dare", combine, base=True)


@merging_rule
def della(
    density: float = 0.5,
    epsilon: float = 0.15,
    elect: bool = True,
    rescale: str = "density",
    scale: float = 1.0,
    normalize: bool = True,
    seed: int = 0,
) -> Rule:
    """DARE whose chances grow with the magnitude, then an election of signs (Deep et al. 2024, arXiv:2406.11617).

    Within each row, the entry of the smallest magnitude stays with chance ``density - epsilon``, that of the largest
    with ``density + epsilon``, the others between by their rank.

    Args:
      density: the mean chance of an entry to stay.
      epsilon: half the range of the chances.
      elect: elect signs as `ties` does; off, all are added up.
      rescale: ``"density"`` divides each entry by its own chance (the paper), ``"l1"`` restores the sum of magnitudes
        (mergekit), ``"none"``.
      scale: of the sum.
      normalize: divide by the weights of the models that agree.
      seed: of the draws.

    Raises:
      ValueError: ``density ± epsilon`` outside (0, 1), or an unknown way to rescale.

    Example:
      >>> della(density=0.9, epsilon=0.2)
      Traceback (most recent call last):
        ...
      ValueError: della has density 0.9 ± epsilon 0.2; both ends must lie between 0 and 1
    """
    check_rescale("della", rescale)
    if not (density - epsilon > 0 and density + epsilon < 1 and epsilon >= 0):
        raise ValueError(f"della has density {density} ± epsilon {epsilon}; both ends must lie between 0 and 1")

    def combine(piece: Piece):
        vectors = piece.vectors
        for model, vector in enumerate(vectors):
            chances = magnitude_probabilities(vector, density, epsilon)
            kept = piece.generator(seed, model).random(vector.shape) < chances
            vectors[model] = keep(vector, kept, rescale, chances)
        return piece.base + scale * total(vectors, piece.weights, elect, normalize)

    return Rule("della", combine, base=True)


def total(vectors: np.ndarray, weights: np.ndarray, elect: bool, normalize: bool) -> np.ndarray:
    """``Σ_k w_k vectors_k``, over the models that have the elected sign where `elect`, divided by their weights' sum.

    Args:
      vectors: ``[models, ...]``.
      weights: ``[models]``.
      elect: count a model's entry only where its sign is that of the weighted sum.
      normalize: divide by the weights of those counted; where they sum to 0, by 1.
    """
    spread = weights.astype(vectors.dtype).reshape(-1, *(1,) * (vectors.ndim - 1))
    weighted = vectors * spread
    if not elect:
        return weighted.sum(axis=0) / vectors.dtype.type(divisor(weights.sum()) if normalize else 1.0)
    elected = np.where(weighted.sum(axis=0) >= 0, 1, -1)
    agree = np.sign(weighted) == elected
    sums = np.sum(weighted * agree, axis=0)
    if not normalize:
        return sums
    by = np.sum(spread * agree, axis=0)
    return sums / np.where(by == 0, 1, by)


def divisor(sum_of_weights: float) -> float:
    """The sum, or 1 where it vanishes."""
    return sum_of_weights if abs(sum_of_weights) >= 1e-8 else 1.0
