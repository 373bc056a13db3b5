"""A robot that finds its way among walls."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.core.state import pytree
from ft_jax.rl.environments.environment import Moment

ROOMS = (
    "...#...",
    "...#...",
    ".......",
    "#.###.#",
    ".......",
    "...#...",
    "...#...",
)
"""Four rooms with doors."""

MOVES = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]], np.int32)


@pytree()
class Place:
    """Where the robot is and where it should go, each ``[row, column]``."""

    robot: jax.Array
    goal: jax.Array


@dataclasses.dataclass(frozen=True)
class Grid:
    """Navigation: go up (0), right (1), down (2) or left (3) to the goal; a wall stops the robot where it is.

    Robot and goal begin at random free places. The reward is 1 at the goal, where the episode ends, and ``-cost`` for
    every step before. The observation is an image of the map with channels for walls, robot and goal.

    Attributes:
      map: rows of ``.`` (free) and ``#`` (wall).
      cost: of a step.
      slip: probability that a random move is made instead.
      limit: actions of an episode.

    Raises:
      ValueError: rows of unlike length, other signs, or free places that can't be reached from one another.

    Example:
      >>> Grid(("..", ".#")).observation
      (2, 2, 3)
    """

    map: tuple[str, ...] = ROOMS
    cost: float = 0.01
    slip: float = 0.0
    limit: int = 64
    actions: int = dataclasses.field(default=4, init=False)
    observation: tuple[int, ...] = dataclasses.field(default=(), init=False)
    field: str = dataclasses.field(default="images", init=False)

    def __post_init__(self):
        rows = {len(row) for row in self.map}
        if len(rows) != 1 or set("".join(self.map)) - {".", "#"}:
            raise ValueError(f"Grid.map is {self.map}; give rows of one length made of '.' (free) and '#' (wall)")
        object.__setattr__(self, "observation", (len(self.map), rows.pop(), 3))
        free = {tuple(place) for place in self._free().tolist()}
        if len(free) < 2:
            raise ValueError(f"Grid.map has {len(free)} free places; it needs at least two, for robot and goal")
        seen, ahead = set(), [min(free)]
        while ahead:
            place = ahead.pop()
            seen.add(place)
            near = ((place[0] + move[0], place[1] + move[1]) for move in MOVES.tolist())
            ahead += [one for one in near if one in free and one not in seen]
        if seen != free:
            lost = min(free - seen)
            raise ValueError(f"Grid.map has a place {lost} that can't be reached from {min(free)}; open a wall")

    def _walls(self):
        return np.array([[sign == "#" for sign in row] for row in self.map])

    def _free(self):
        return np.argwhere(~self._walls())

    def reset(self, key):
        """Two different free places."""
        free = jnp.asarray(self._free(), jnp.int32)
        robot, goal = jax.random.choice(key, free, (2,), replace=False)
        place = Place(robot, goal)
        return place, self._seen(place)

    def step(self, state, action, key):
        """One move."""
        slip_key, move_key = jax.random.split(key)
        slips = jax.random.uniform(slip_key) < self.slip
        action = jnp.where(slips, jax.random.randint(move_key, (), 0, 4), action)
        walls = jnp.asarray(self._walls())
        there = state.robot + jnp.asarray(MOVES)[action]
        inside = jnp.clip(there, 0, jnp.array(walls.shape) - 1)
        robot = jnp.where(walls[inside[0], inside[1]], state.robot, inside)
        place = Place(robot, state.goal)
        arrived = (robot == state.goal).all()
        reward = jnp.where(arrived, 1.0, -self.cost)
        return Moment(place, self._seen(place), reward, arrived, jnp.bool_(False))

    def _seen(self, place):
        image = jnp.zeros(self.observation).at[:, :, 0].set(jnp.asarray(self._walls(), jnp.float32))
        image = image.at[place.robot[0], place.robot[1], 1].set(1.0)
        return image.at[place.goal[0], place.goal[1], 2].set(1.0)
