"""Two links that must swing up."""

import dataclasses

import jax
import jax.numpy as jnp

from ft_jax.rl.environments.environment import Moment


@dataclasses.dataclass(frozen=True)
class Acrobot:
    """Acrobot-v1: torque -1, 0 or 1 at the joint of two hanging links until their tip is a link's length up.

    Sutton 1996, with the book's dynamics and Gymnasium's numbers: -1 for every step that does not end it. The
    observation is the angles' cosines and sines and their speeds, as an image of one pixel with six channels.

    Attributes:
      length: of the first link, in metres (that of the second is 1).
      mass: of each link, in kilograms.
      limit: actions of an episode.
    """

    length: float = 1.0
    mass: float = 1.0
    limit: int = 500
    actions: int = dataclasses.field(default=3, init=False)
    observation: tuple[int, ...] = dataclasses.field(default=(1, 1, 6), init=False)
    field: str = dataclasses.field(default="images", init=False)

    def reset(self, key):
        """Hanging, everything within ±0.1."""
        state = jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)
        return state, self._seen(state)

    def step(self, state, action, key):
        """0.2 seconds under the torque, by one Runge-Kutta step of fourth order."""
        torque, time = action.astype(jnp.float32) - 1.0, 0.2
        slope = lambda state: self._slope(state, torque)  # noqa: E731
        k1 = slope(state)
        k2 = slope(state + time / 2 * k1)
        k3 = slope(state + time / 2 * k2)
        k4 = slope(state + time * k3)
        state = state + time / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        angles = (state[:2] + jnp.pi) % (2 * jnp.pi) - jnp.pi
        speeds = jnp.clip(state[2:], jnp.array([-4.0, -9.0]) * jnp.pi, jnp.array([4.0, 9.0]) * jnp.pi)
        state = jnp.concatenate([angles, speeds])
        up = -jnp.cos(angles[0]) - jnp.cos(angles[0] + angles[1]) > 1.0
        return Moment(state, self._seen(state), jnp.where(up, 0.0, -1.0), up, jnp.bool_(False))

    def _slope(self, state, torque):
        first, second, turning, bending = state
        mass, length, centre, inertia, gravity = self.mass, self.length, 0.5, 1.0, 9.8
        d1 = mass * centre**2 + mass * (length**2 + centre**2 + 2 * length * centre * jnp.cos(second)) + 2 * inertia
        d2 = mass * (centre**2 + length * centre * jnp.cos(second)) + inertia
        phi2 = mass * centre * gravity * jnp.cos(first + second - jnp.pi / 2)
        phi1 = (
            -mass * length * centre * bending**2 * jnp.sin(second)
            - 2 * mass * length * centre * bending * turning * jnp.sin(second)
            + (mass * centre + mass * length) * gravity * jnp.cos(first - jnp.pi / 2)
            + phi2
        )
        bend = torque + d2 / d1 * phi1 - mass * length * centre * turning**2 * jnp.sin(second) - phi2
        bend = bend / (mass * centre**2 + inertia - d2**2 / d1)
        return jnp.stack([turning, bending, -(d2 * bend + phi1) / d1, bend])

    def _seen(self, state):
        first, second, turning, bending = state
        parts = [jnp.cos(first), jnp.sin(first), jnp.cos(second), jnp.sin(second), turning, bending]
        return jnp.stack(parts).reshape(1, 1, 6)
