"""Learning to choose: which candidate trains next, by what the others came to.

- `choose`: the method, over candidates of different shapes in one state.
- `Ucb`, `Thompson`, `Halving`, `Mixture`: how it decides.
- `standings`, `why`: what it knows, and the reason for its choice in a sentence.
"""

from ft_jax.meta.choosing.choose import Candidate, choose
from ft_jax.meta.choosing.controllers import Controller, Halving, Mixture, Thompson, Ucb, as_controller
from ft_jax.meta.choosing.record import chosen_candidate, recommended, standings, why

__all__ = [
    "Candidate",
    "Controller",
    "Halving",
    "Mixture",
    "Thompson",
    "Ucb",
    "as_controller",
    "choose",
    "chosen_candidate",
    "recommended",
    "standings",
    "why",
]
