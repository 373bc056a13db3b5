"""A model that answers while it learns: lines in, answers out, each labelled line learned from, and nothing forgotten
by a kill.

- `Learner`: a program's state, which answers a line and takes a step on a labelled one.
- `Journal`: what was learned since the last checkpoint, on disk before it is learned.
- `serve`: the loop over a source of lines.
"""

from ft_jax.training.online.journal import Entry, Journal
from ft_jax.training.online.learner import Learner, learner_of, of_run
from ft_jax.training.online.lines import Record, record_of
from ft_jax.training.online.serve import Served, serve

__all__ = ["Entry", "Journal", "Learner", "Record", "Served", "learner_of", "of_run", "record_of", "serve"]
