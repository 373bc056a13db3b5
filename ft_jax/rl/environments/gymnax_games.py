"""gymnax's environments, where it is installed."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from ft_jax.rl.environments.environment import Moment


@dataclasses.dataclass(frozen=True)
class Gymnax:
    """An environment of gymnax 1.0 or later, by name: ``Gymnax("Breakout-MinAtar")``.

    gymnax is no dependency: ``pip install gymnax``. Its own resetting is not used.

    Attributes:
      name: as ``gymnax.make`` takes it.
      limit: actions of an episode.

    Raises:
      ValueError: gymnax is missing or older, or the environment's actions are no choice among a few.
    """

    name: str
    limit: int = 500
    actions: int = dataclasses.field(default=0, init=False)
    observation: tuple[int, ...] = dataclasses.field(default=(), init=False)
    field: str = dataclasses.field(default="images", init=False)

    def __post_init__(self):
        game, settings = self._made()
        space = game.action_space(settings)
        if not hasattr(space, "n"):
            raise ValueError(f"{self.name} acts in {space}, which is no choice among a few actions; take another")
        object.__setattr__(self, "actions", int(space.n))
        shape = game.observation_space(settings).shape
        object.__setattr__(self, "observation", shape if len(shape) == 3 else (1, 1, *shape) if shape else (1, 1, 1))

    def _made(self) -> tuple[Any, Any]:
        try:
            import gymnax
        except ImportError as error:
            raise ValueError(f"{self.name} is one of gymnax's environments; pip install 'gymnax>=1.0'") from error
        return gymnax.make(self.name)

    def reset(self, key):
        """gymnax's."""
        game, settings = self._made()
        seen, state = game.reset_env(key, settings)
        return state, self._image(seen)

    def step(self, state, action, key):
        """gymnax's, whose step tells an end from a cut since 1.0."""
        game, settings = self._made()
        told = game.step_env(key, state, action, settings)
        if len(told) != 6:
            raise ValueError(
                f"{self.name}'s step gives {len(told)} values, gymnax 1.0's six; pip install 'gymnax>=1.0'"
            )
        seen, state, reward, terminated, truncated, _ = told
        end, cut = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
        return Moment(state, self._image(seen), jnp.asarray(reward, jnp.float32), end, cut)

    def _image(self, seen):
        return jnp.asarray(seen, jnp.float32).reshape(self.observation)
