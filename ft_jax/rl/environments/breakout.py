"""A ball, a paddle and a wall of bricks on ten by ten pixels."""

import dataclasses

import jax
import jax.numpy as jnp

from ft_jax.core.state import pytree
from ft_jax.rl.environments.environment import Moment

SIZE = 10


@pytree()
class Court:
    """Where everything is: rows and columns from the top left.

    Attributes:
      ball, before: ``[row, column]`` of the ball now and a step ago.
      speed: ``[row, column]``, each -1 or 1.
      paddle: its column, in the last row.
      bricks: ``[10, 10]``.
      struck: the ball broke a brick in the last step, and breaks none in this one.
    """

    ball: jax.Array
    before: jax.Array
    speed: jax.Array
    paddle: jax.Array
    bricks: jax.Array
    struck: jax.Array


@dataclasses.dataclass(frozen=True)
class Breakout:
    """Breakout after MinAtar's rules: stay (0), left (1) or right (2); 1 for every brick.

    Young and Tian 2019, arXiv:1903.03176. The ball moves diagonally and turns at walls, bricks and the paddle; the
    episode ends where it passes the paddle, and a cleared wall is built again. The observation is an image with
    channels for paddle, ball, where the ball was, and bricks. Without MinAtar's sticky actions.

    Attributes:
      limit: actions of an episode.
    """

    limit: int = 1000
    actions: int = dataclasses.field(default=3, init=False)
    observation: tuple[int, ...] = dataclasses.field(default=(SIZE, SIZE, 4), init=False)
    field: str = dataclasses.field(default="images", init=False)

    def reset(self, key):
        """The ball comes in from the left or the right, below the bricks."""
        right = jax.random.bernoulli(key)
        column = jnp.where(right, SIZE - 1, 0)
        ball = jnp.stack([jnp.int32(3), column])
        speed = jnp.stack([jnp.int32(1), jnp.where(right, -1, 1)])
        court = Court(ball, ball, speed, jnp.int32(4), _wall(), jnp.bool_(False))
        return court, _seen(court)

    def step(self, state, action, key):
        """The paddle moves, then the ball."""
        paddle = jnp.clip(state.paddle + jnp.where(action == 2, 1, jnp.where(action == 1, -1, 0)), 0, SIZE - 1)
        row, column = state.ball + state.speed
        down, along = state.speed
        aside = (column < 0) | (column >= SIZE)
        column, along = jnp.clip(column, 0, SIZE - 1), jnp.where(aside, -along, along)

        top = row < 0
        row = jnp.maximum(row, 0)
        hits = ~top & state.bricks[row, column]
        breaks = hits & ~state.struck
        low = ~top & ~hits & (row == SIZE - 1)
        bricks = state.bricks & ~(breaks & _at(row, column))
        bricks = jnp.where(low & ~bricks.any(), _wall(), bricks)
        straight = low & (state.ball[1] == paddle)
        corner = low & ~straight & (column == paddle)
        turned = top | breaks | straight | corner
        row = jnp.where(breaks | straight | corner, state.ball[0], row)
        down, along = jnp.where(turned, -down, down), jnp.where(corner, -along, along)
        lost = low & ~straight & ~corner
        court = Court(jnp.stack([row, column]), state.ball, jnp.stack([down, along]), paddle, bricks, hits)
        return Moment(court, _seen(court), breaks.astype(jnp.float32), lost, jnp.bool_(False))


def _wall():
    return jnp.zeros((SIZE, SIZE), bool).at[1:4].set(True)


def _at(row, column):
    places = jnp.arange(SIZE)
    return (places[:, None] == row) & (places[None, :] == column)


def _seen(court):
    paddle = _at(SIZE - 1, court.paddle)
    layers = [paddle, _at(*court.ball), _at(*court.before), court.bricks]
    return jnp.stack(layers, axis=-1).astype(jnp.float32)
