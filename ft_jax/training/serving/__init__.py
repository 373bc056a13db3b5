"""After training: a run's model kept in its folder, used for predictions and text, measured, and exported.

- `keep_of_run`, `load_run`: the model in a run's folder, in without and out without the experiment's file.
- `export_adapter`, `export_merged`: for peft, transformers and sentence-transformers, checked before they are written;
  `met`: of a run that has several adapters or writes them, the one that an example meets.
- `predict`, `numbers`, `answers`, `measured`: classes with probabilities, vectors or numbers, generated text, and the
  scores on a file.
"""

from ft_jax.training.serving.export import export_adapter, export_merged, read_by
from ft_jax.training.serving.kept import Kept, NoModel, keep, load_run, unkeepable
from ft_jax.training.serving.of_run import keep_of_run, why_unkeepable
from ft_jax.training.serving.one_adapter import met
from ft_jax.training.serving.use import Prediction, answers, gives_numbers, measured, numbers, predict

__all__ = [
    "Kept",
    "NoModel",
    "Prediction",
    "answers",
    "export_adapter",
    "export_merged",
    "gives_numbers",
    "keep",
    "keep_of_run",
    "load_run",
    "measured",
    "met",
    "numbers",
    "predict",
    "read_by",
    "unkeepable",
    "why_unkeepable",
]
