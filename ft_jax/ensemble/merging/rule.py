"""What a rule of merging is: one tensor of every model in, one tensor out."""

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Piece:
    """The same tensor of every model.

    Attributes:
      name: of the tensor; random rules draw from it.
      models: ``[models, ...]`` float32, or float64 where the tensors are.
      weights: of each model, ``[models]``.
      base: the tensor of the model that they were trained from, where the merge has one.
      fishers: each model's diagonal Fisher information of this tensor, ``[models, ...]``, where the merge has them.
      notes: what the rule's `survey` found.
    """

    name: str
    models: np.ndarray
    weights: np.ndarray
    base: np.ndarray | None = None
    fishers: np.ndarray | None = None
    notes: Any = None

    @property
    def vectors(self) -> np.ndarray:
        """Task vectors, ``models - base``."""
        return self.models - self.base

    def spread(self, coefficients: np.ndarray) -> np.ndarray:
        """``coefficients [models]`` with as many axes as `models`."""
        return coefficients.astype(self.models.dtype).reshape(-1, *(1,) * (self.models.ndim - 1))

    def generator(self, seed: int, model: int) -> np.random.Generator:
        """Random numbers of a seed, this tensor and one model, the same in every process and order."""
        digest = hashlib.sha256(f"{seed}/{self.name}/{model}".encode()).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16])))


Factors = tuple[np.ndarray, np.ndarray]
"""Of an update ``b @ a``: ``(a [rank, inputs], b [outputs, rank])``."""

Pieces = Callable[[], Iterator[Piece]]
"""Goes over all tensors again, each time it is called."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """How tensors are merged.

    Attributes:
      name: such as ``"ties"``.
      options: what it was made with.
      combine: the merged tensor of a piece.
      base: whether it needs the model that the others were trained from.
      fishers: whether it needs Fisher information.
      fewest: models it can merge.
      most: models it can merge, None for any number.
      coefficients: of a rule that is the sum of ``coefficients[k] * models[k]`` (of task vectors, where it needs a
        base), from the weights; such a rule merges LoRA adapters exactly.
      factored: the factors of the merged update of one module, from the module's name, the factors of every model's
        update and the weights; a rule with it merges LoRA adapters exactly too.
      survey: looks at all tensors before the first is merged; what it returns is each piece's `notes`.
    """

    name: str
    combine: Callable[[Piece], np.ndarray]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    base: bool = False
    fishers: bool = False
    fewest: int = 1
    most: int | None = None
    coefficients: Callable[[np.ndarray], np.ndarray] | None = None
    factored: Callable[[str, Sequence[Factors], np.ndarray], Factors] | None = None
    survey: Callable[[Pieces], Any] | None = None

    def __call__(self, piece: Piece) -> np.ndarray:
        """The merged tensor, of the type of its models."""
        return np.asarray(self.combine(piece)).astype(piece.models.dtype, copy=False).reshape(piece.models.shape[1:])


RULES: dict[str, Callable[..., Rule]] = {}
"""Every rule's constructor by its name."""


def merging_rule(constructor: Callable[..., Rule]) -> Callable[..., Rule]:
    """Lists a constructor in `RULES` under its own name; the rules it makes remember their options."""
    name = constructor.__name__

    @functools.wraps(constructor)
    def make(*arguments, **options) -> Rule:
        bound = inspect.signature(constructor).bind(*arguments, **options)
        bound.apply_defaults()
        return dataclasses.replace(constructor(*bound.args, **bound.kwargs), name=name, options=dict(bound.arguments))

    RULES[name] = make
    return make


def weights_of(rule: Rule, weights, models: int, base: bool, fishers: bool) -> np.ndarray:
    """The weights of `models` models, ones by default, once the rule has what it needs.

    Raises:
      ValueError: too few or too many models, no base, no Fisher information, or weights that don't fit.
    """
    if models < rule.fewest or (rule.most is not None and models > rule.most):
        takes = f"exactly {rule.fewest}" if rule.fewest == rule.most else f"at least {rule.fewest}"
        raise ValueError(f"{rule.name} merges {takes} models and was given {models}")
    if rule.base and not base:
        raise ValueError(
            f"{rule.name} merges differences from a base; give the model they were trained from (--base, base=)"
        )
    if rule.fishers and not fishers:
        raise ValueError(f"{rule.name} needs each model's Fisher information; pass fishers=, one for each model")
    given = np.ones(models) if weights is None else np.asarray(weights, np.float64)
    if given.shape != (models,) or not np.all(np.isfinite(given)):
        raise ValueError(
            f"weights are {np.asarray(weights).tolist()}; give {models} finite numbers, one for each model"
        )
    return given


def shares(weights: np.ndarray) -> np.ndarray:
    """Weights that sum to 1.

    Raises:
      ValueError: where they sum to 0.
    """
    if abs(weights.sum()) < 1e-8:
        raise ValueError(f"weights {weights.tolist()} sum to 0, so there is no mean; give weights of another sum")
    return weights / weights.sum()


def within(rule: str, name: str, value: float, least: float, most: float) -> None:
    """Refuses a number outside ``(least, most]``.

    Raises:
      ValueError: naming rule, number and bounds.
    """
    if not least < value <= most:
        raise ValueError(f"{rule} has {name} {value}; give a number above {least:g} and at most {most:g}")
