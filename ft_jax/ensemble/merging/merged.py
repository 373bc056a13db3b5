"""What a merge did, and its own record in the merged folder."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from ft_jax.ensemble.merging.rule import Piece, Rule
from ft_jax.ensemble.merging.sparse import signs_differ

RECORD = "merge.json"


@dataclasses.dataclass(frozen=True)
class Merged:
    """What came of a merge.

    Attributes:
      folder: that was written.
      rule: its name.
      options: the rule's.
      models: their folders.
      weights: of each.
      tensors: how many were merged; for adapters, how many modules.
      parameters: how many numbers they have.
      distances: of each model, ``‖merged - model‖ / ‖model‖``; for adapters of the updates that they stand for.
      cosines: ``[models, models]`` between task vectors; None where there is no base.
      conflicts: share of the entries where two task vectors have different signs; None where there is no base.
      ranks: of merged adapters, the least and the largest.
      lost: of merged adapters, the share of the update's norm that the rank had no room for.
    """

    folder: Path
    rule: str
    options: dict
    models: tuple[str, ...]
    weights: tuple[float, ...]
    tensors: int
    parameters: int
    distances: tuple[float, ...]
    cosines: tuple[tuple[float, ...], ...] | None = None
    conflicts: float | None = None
    ranks: tuple[int, int] | None = None
    lost: float | None = None

    def describe(self) -> dict:
        """As JSON takes it, without the folder itself."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "folder"}


def write_record(merged: Merged, folder: Path) -> None:
    """Writes ``merge.json``, from which the merge can be made again."""
    (folder / RECORD).write_text(json.dumps(merged.describe(), indent=2) + "\n", encoding="utf-8")


class Tally:
    """Sums over the tensors of a merge as they pass, in float64."""

    def __init__(self, models: int):
        self.tensors = self.parameters = 0
        self.apart, self.norms = np.zeros(models), np.zeros(models)
        self.gram: np.ndarray | None = None
        self.differ = 0.0

    def add(self, piece: Piece, merged: np.ndarray) -> None:
        """One tensor's part."""
        rows = piece.models.reshape(len(piece.models), -1)
        self.tensors, self.parameters = self.tensors + 1, self.parameters + rows.shape[1]
        self.apart += np.sum(np.square(rows - merged.reshape(-1)), axis=1, dtype=np.float64)
        self.norms += np.sum(np.square(rows), axis=1, dtype=np.float64)
        if piece.base is not None and rows.size:
            vectors = piece.vectors.reshape(rows.shape)
            gram = vectors @ vectors.T
            self.gram = gram.astype(np.float64) + (0 if self.gram is None else self.gram)
            self.differ += signs_differ(vectors) * rows.shape[1]

    def merged(self, folder: Path, rule: Rule, models, weights, **more) -> Merged:
        """The whole account."""
        cosines = conflicts = None
        if self.gram is not None:
            lengths = np.sqrt(np.maximum(np.diag(self.gram), 1e-30))
            cosines = tuple(map(tuple, (self.gram / np.outer(lengths, lengths)).tolist()))
            conflicts = self.differ / max(self.parameters, 1)
        distances = np.sqrt(self.apart / np.maximum(self.norms, 1e-30))
        return Merged(
            folder,
            rule.name,
            rule.options,
            tuple(map(str, models)),
            tuple(weights.tolist()),
            self.tensors,
            self.parameters,
            tuple(distances.tolist()),
            cosines,
            conflicts,
            **more,
        )
