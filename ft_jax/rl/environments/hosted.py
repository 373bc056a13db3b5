"""Environments of Gymnasium, which run on the host, as pure functions of their histories."""

import collections
import dataclasses
import threading
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt32

from ft_jax.core.state import pytree
from ft_jax.outside import printable
from ft_jax.rl.environments.environment import Moment

KEPT = 4096
"""Environments that are held ready; one that is asked for again and is not among them is brought there anew."""


@pytree()
class History:
    """All that makes a hosted environment what it is: where it began and what was done in it.

    Attributes:
      seed: that it was reset with.
      length: actions so far.
      actions: the actions, 0 after `length`.
      seen: a checksum of all observations so far.
    """

    seed: UInt32[Array, ""]
    length: Int[Array, ""]
    actions: Int[Array, " limit"]
    seen: UInt32[Array, ""]


@dataclasses.dataclass(frozen=True)
class Hosted:
    """Any environment with the interface of Gymnasium: ``Hosted("CartPole-v1")``, ``Hosted(lambda: Mine())``.

    Its state in a run is its `History`, so acting stays a pure function: it jits, maps over copies, devices and
    members, and a run that was killed goes on in the same bits. The host holds the environments themselves; one that it
    does not hold (after a resume) is reset with its seed and led through its actions again, which must show the same.

    Gymnasium is no dependency: ``pip install gymnasium``. A step calls the host once for all copies.

    Attributes:
      make: a name as ``gymnasium.make`` takes it, or what makes an environment: ``reset(seed=) -> (observation,
        info)``, ``step(action) -> (observation, reward, terminated, truncated, info)``, ``action_space`` a choice
        among ``n`` actions, ``observation_space`` numbers of one ``shape``, or a choice among ``n`` (shown one-hot).
      limit: actions after which an episode is cut.
      field: the batch's field that a model reads the observation from.

    Raises:
      ValueError: Gymnasium is missing, or the environment's spaces are others. While acting: an environment that
        raises, gives a number that is not finite, or shows something else when it is led the same way again.

    Example:
      >>> import types
      >>> class Guess:
      ...     action_space, observation_space = types.SimpleNamespace(n=2), types.SimpleNamespace(shape=(1,))
      ...     def reset(self, seed): self.right = seed % 2; return [self.right], {}
      ...     def step(self, action): return [self.right], float(action == self.right), True, False, {}
      >>> world = Hosted(Guess, limit=5)
      >>> state, seen = world.reset(jax.random.key(0))
      >>> world.step(state, seen.reshape(()).astype(jnp.int32), jax.random.key(1)).reward.item()
      1.0
    """

    make: str | Callable[[], Any]
    limit: int = 500
    field: str = "images"
    actions: int = dataclasses.field(default=0, init=False)
    observation: tuple[int, ...] = dataclasses.field(default=(), init=False)

    def __post_init__(self):
        shown = self.make if isinstance(self.make, str) else getattr(self.make, "__name__", type(self.make).__name__)
        worlds = _Worlds(_maker(self.make), shown)
        object.__setattr__(self, "_worlds", worlds)
        object.__setattr__(self, "actions", worlds.actions)
        object.__setattr__(self, "observation", worlds.observation)

    def reset(self, key: jax.Array) -> tuple[History, Array]:
        """An episode of a seed drawn from the key."""
        return self.reset_if(jnp.bool_(True), key)

    def reset_if(self, wanted: Array, key: jax.Array) -> tuple[History, Array]:
        """`reset` where it is wanted; zeros elsewhere, and the host does nothing."""
        seed = jax.random.bits(key, dtype=jnp.uint32) >> 1
        seen, shown = self._called(self._worlds.reset, (), (wanted, seed))
        return History(seed, jnp.int32(0), jnp.zeros(self.limit, jnp.int32), seen), shown

    def step(self, state: History, action: Int[Array, ""], key: jax.Array) -> Moment:
        """What comes of an action; what is random in it comes of the environment's seed, and not of the key."""
        action = action.astype(jnp.int32)
        told = (jnp.float32(0), jnp.bool_(False), jnp.bool_(False))
        given = (state.seed, state.length, state.actions, state.seen, action)
        seen, shown, reward, ended, cut = self._called(self._worlds.step, told, given)
        actions = state.actions.at[jnp.minimum(state.length, self.limit - 1)].set(action)
        return Moment(History(state.seed, state.length + 1, actions, seen), shown, reward, ended, cut)

    def _called(self, function, told, arguments):
        seen, shown = jnp.uint32(0), jnp.zeros(self.observation, jnp.float32)
        shapes = [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in (seen, shown, *told)]
        return jax.pure_callback(function, tuple(shapes), *arguments, vmap_method="broadcast_all")


class _Worlds:
    """The environments themselves, each under the history that it has; given as arrays with any leading axes."""

    def __init__(self, make: Callable[[], Any], name: str):
        self._make, self._name = make, name
        self._live: collections.OrderedDict[tuple, Any] = collections.OrderedDict()
        self._spare: list[Any] = []
        self._lock = threading.Lock()
        world = make()
        self._spare.append(world)
        choices, space = world.action_space, world.observation_space
        if not hasattr(choices, "n"):
            raise ValueError(
                f"{name} acts in {choices}, which is no choice among a few actions; take another, or wrap it"
            )
        self.actions, self._first = int(choices.n), int(getattr(choices, "start", 0))
        self._classes = int(space.n) if hasattr(space, "n") else None
        shape = (self._classes,) if self._classes else getattr(space, "shape", None)
        if shape is None:
            raise ValueError(f"{name} shows {space}, which is no array of one shape; wrap it so that it shows one")
        self.observation = tuple(shape) if len(shape) == 3 else (1, 1, *shape) if shape else (1, 1, 1)

    def reset(self, wanted, seed):
        """Checksums and observations of new episodes."""
        wanted, seed = np.asarray(wanted), np.asarray(seed)
        seen, shown = self._room(seed.shape)
        with self._lock:
            for at in np.ndindex(seed.shape):
                if wanted[at]:
                    world, seen[at], shown[at] = self._begun(int(seed[at]))
                    self._keep((int(seed[at]), 0, int(seen[at])), world)
        return seen, shown

    def step(self, seed, length, actions, before, action):
        """Checksums, observations, rewards, ends and cuts."""
        seed, length, actions, before, action = map(np.asarray, (seed, length, actions, before, action))
        seen, shown = self._room(seed.shape)
        reward, ended, cut = (np.zeros(seed.shape, kind) for kind in (np.float32, bool, bool))
        with self._lock:
            for at in np.ndindex(seed.shape):
                start, count, was = int(seed[at]), int(length[at]), int(before[at])
                world = self._live.pop((start, count, was), None)
                if world is None:
                    world = self._led(start, actions[at][:count], was)
                shown[at], reward[at], ended[at], cut[at] = self._acted(world, int(action[at]), start, count)
                seen[at] = zlib.crc32(shown[at].tobytes(), was)
                if ended[at] or cut[at]:
                    self._spare.append(world)
                else:
                    self._keep((start, count + 1, int(seen[at])), world)
        return seen, shown, reward, ended, cut

    def _begun(self, seed):
        world = self._spare.pop() if self._spare else self._make()
        try:
            told = world.reset(seed=seed)
        except Exception as error:
            raise self._failed(error, f"at its reset with seed {seed}") from error
        shown = self._array(told[0], f"at its reset with seed {seed}")
        return world, zlib.crc32(shown.tobytes()), shown

    def _acted(self, world, action, seed, count):
        where = f"after {count} actions from seed {seed}"
        try:
            shown, reward, ended, cut, *_ = world.step(action + self._first)
        except Exception as error:
            raise self._failed(error, where) from error
        if not np.isfinite(reward):
            raise ValueError(f"{self._name} rewards {reward} {where}; give a finite number")
        return self._array(shown, where), reward, ended, cut

    def _led(self, seed, actions, wanted):
        """An environment with a history."""
        world, seen, _ = self._begun(seed)
        for count, action in enumerate(actions):
            shown, *_ = self._acted(world, int(action), seed, count)
            seen = zlib.crc32(shown.tobytes(), seen)
        if seen != wanted:
            raise ValueError(
                f"{self._name} with seed {seed} and the same {len(actions)} actions shows something else than before, "
                "so no run can go on in it; draw all that is random in it from the seed that reset gets"
            )
        return world

    def _keep(self, history, world):
        self._live[history] = world
        if len(self._live) > KEPT:
            self._spare.append(self._live.popitem(last=False)[1])

    def _array(self, shown, where):
        if self._classes:
            return np.eye(self._classes, dtype=np.float32)[int(shown)].reshape(self.observation)
        found = np.asarray(shown, np.float32)
        if found.size != np.prod(self.observation) or not np.isfinite(found).all():
            raise ValueError(f"{self._name} shows {printable(shown, 60)} {where}; it said finite {self.observation}")
        return found.reshape(self.observation)

    def _failed(self, error, where):
        return ValueError(f"{self._name} raised {type(error).__name__} {where}: {' '.join(str(error).split())}")

    def _room(self, shape):
        return np.zeros(shape, np.uint32), np.zeros((*shape, *self.observation), np.float32)


def _maker(make):
    if not isinstance(make, str):
        return make
    try:
        import gymnasium  # An extra, ft_jax[gymnasium].
    except ImportError as error:
        raise ValueError(f"{make} is one of Gymnasium's environments; pip install gymnasium") from error
    return lambda: gymnasium.make(make)
