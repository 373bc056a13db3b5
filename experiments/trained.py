"""A model that an experiment has trained, as a model spec: teachers and starting points."""

import dataclasses
from pathlib import Path

import jax

from ft_jax.core import merge
from ft_jax.training import Experiment, fit


@dataclasses.dataclass(frozen=True)
class Trained:
    """The model of an experiment after its training, adapters merged; trained at first use.

    Attributes:
      experiment: what trains it; its run folder keeps the result.
      folder: where run folders are.
    """

    experiment: Experiment
    folder: str = "runs"

    def build(self, key: jax.Array):
        """The trained model."""
        result = fit(self.experiment, run=Path(self.folder) / self.experiment.name, quiet=True)
        return dataclasses.replace(result.model, params=merge(result.params))

    def outline(self, key: jax.Array):
        """The model untrained, of the same shapes once adapters are merged."""
        return self.experiment.model.build(key)
