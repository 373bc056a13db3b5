"""Worlds to act in: pure functions of a state, so that thousands of copies run in one compiled program.

- `CartPole`, `Acrobot`: the classics, with their lengths and masses to change;
- `Grid`: a robot among walls, `Breakout`: a game after MinAtar;
- `Recall`: tokens to answer, for language models;
- `Gymnax`: gymnax's environments, where it is installed;
- `Hosted`: Gymnasium's, and whatever has its interface, on the host;
- `Copies`, `start`, `advance`, `play`: many of them at once.
"""

from ft_jax.rl.environments.acrobot import Acrobot
from ft_jax.rl.environments.breakout import Breakout
from ft_jax.rl.environments.cartpole import CartPole
from ft_jax.rl.environments.environment import (
    Copies,
    Environment,
    Moment,
    Transition,
    advance,
    changed,
    check,
    keys_of,
    play,
    start,
)
from ft_jax.rl.environments.grid import ROOMS, Grid
from ft_jax.rl.environments.gymnax_games import Gymnax
from ft_jax.rl.environments.hosted import Hosted
from ft_jax.rl.environments.recall import Recall

__all__ = [
    "ROOMS", "Acrobot", "Breakout", "CartPole", "Copies", "Environment", "Grid", "Gymnax", "Hosted", "Moment", "Recall",
    "Transition",
    "advance", "changed", "check", "keys_of", "play", "start",
]  # fmt: skip
