"""Sweeps: many runs of one experiment, whose fields a search chooses.

- `Sweep`: what is tried, how each trial is judged, and where it is kept.
- `work`: runs trials of a sweep until none is left; any number of processes may.
- `try_out`: sees before that whether one can be built.
- `Folded`: data cut for cross-validation.
- `write_sweep_report`, `write_winner`: the page, and an experiment file that runs.
"""

from ft_jax.training.sweeps.folded import Folded
from ft_jax.training.sweeps.report import write_sweep_report
from ft_jax.training.sweeps.sweep import Sweep
from ft_jax.training.sweeps.winner import Winner, winner, write_winner
from ft_jax.training.sweeps.worker import try_out, work

__all__ = ["Folded", "Sweep", "Winner", "try_out", "winner", "work", "write_sweep_report", "write_winner"]
