"""A pole on a cart that must not fall."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from ft_jax.rl.environments.environment import Moment


@dataclasses.dataclass(frozen=True)
class CartPole:
    """CartPole-v1: push a cart to the left (0) or right (1) so that its pole stays up; 1 for every step.

    Barto, Sutton and Anderson 1983, "Neuronlike adaptive elements", with Gymnasium's numbers. The observation is
    position, speed, angle and its speed, as an image of one pixel with four channels. An episode ends where the pole
    leans by more than 12 degrees or the cart leaves ``±2.4`` m.

    Attributes:
      length: half the pole's, in metres.
      mass: of the pole, in kilograms.
      cart: the cart's mass, in kilograms.
      force: of a push, in newtons.
      gravity: in m/s².
      interval: seconds between actions.
      limit: actions of an episode.

    Example:
      >>> state, seen = CartPole().reset(jax.random.key(0))
      >>> CartPole().step(state, jnp.int32(1), jax.random.key(1)).reward
      Array(1., dtype=float32)
    """

    length: float = 0.5
    mass: float = 0.1
    cart: float = 1.0
    force: float = 10.0
    gravity: float = 9.8
    interval: float = 0.02
    limit: int = 500
    actions: int = dataclasses.field(default=2, init=False)
    observation: tuple[int, ...] = dataclasses.field(default=(1, 1, 4), init=False)
    field: str = dataclasses.field(default="images", init=False)

    def reset(self, key):
        """Everything within ±0.05 of the middle."""
        state = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return state, state.reshape(1, 1, 4)

    def step(self, state, action, key):
        """One interval under the push, by Euler's method."""
        _, speed, angle, turning = state
        push = jnp.where(action == 1, self.force, -self.force)
        whole = self.cart + self.mass
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        along = (push + self.mass * self.length * turning**2 * sine) / whole
        turn = (self.gravity * sine - cosine * along) / (self.length * (4.0 / 3.0 - self.mass * cosine**2 / whole))
        acceleration = along - self.mass * self.length * turn * cosine / whole
        state = state + self.interval * jnp.stack([speed, acceleration, turning, turn])
        fell = (jnp.abs(state[0]) > 2.4) | (jnp.abs(state[2]) > 12 * 2 * math.pi / 360)
        return Moment(state, state.reshape(1, 1, 4), jnp.float32(1.0), fell, jnp.bool_(False))
