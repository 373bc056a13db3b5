"""Tokens to answer, for policies that read text."""

import dataclasses

import jax
import jax.numpy as jnp

from ft_jax.rl.environments.environment import Moment


@dataclasses.dataclass(frozen=True)
class Recall:
    """Random tokens, of which the last is to be said: 1 for the right one; every action shows new ones.

    The smallest environment that a language model can act in; its observation is ``input_ids``.

    Attributes:
      actions: tokens there are.
      length: tokens shown at a time.
      limit: actions of an episode.

    Example:
      >>> tokens, seen = Recall(32, 6).reset(jax.random.key(0))
      >>> seen.shape
      (6,)
    """

    actions: int = 32
    length: int = 6
    limit: int = 4
    observation: tuple[int, ...] = dataclasses.field(default=(), init=False)
    field: str = dataclasses.field(default="input_ids", init=False)

    def __post_init__(self):
        object.__setattr__(self, "observation", (self.length,))

    def reset(self, key):
        """New tokens."""
        tokens = jax.random.randint(key, (self.length,), 0, self.actions)
        return tokens, tokens

    def step(self, state, action, key):
        """Right or not, and new tokens."""
        tokens, seen = self.reset(key)
        reward = (action == state[-1]).astype(jnp.float32)
        return Moment(tokens, seen, reward, jnp.bool_(False), jnp.bool_(False))
