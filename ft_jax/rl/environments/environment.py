"""What an environment is: pure functions of a state, so that thousands of copies run in one program."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ft_jax.core.state import pytree


@pytree()
class Moment:
    """What came of an action.

    Attributes:
      state: the environment's, whatever it is made of.
      observation: what the policy sees next.
      reward: for the action.
      terminated: the episode ended by itself: nothing follows.
      truncated: it was cut, by the time limit.
    """

    state: Any
    observation: Array
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    truncated: Bool[Array, ""]


@runtime_checkable
class Environment(Protocol):
    """A world of one agent; a frozen dataclass with these.

    Attributes:
      actions: how many there are; an action is one of ``0 … actions - 1``.
      observation: shape of what is seen, ``(height, width, channels)`` for an image network.
      limit: actions after which an episode is cut.
      field: the batch's field that a model reads the observation from.
    """

    actions: int
    observation: tuple[int, ...]
    limit: int
    field: str

    def reset(self, key: jax.Array) -> tuple[Any, Array]:
        """``(state, observation)`` of a new episode."""
        ...

    def step(self, state: Any, action: Int[Array, ""], key: jax.Array) -> Moment:
        """What comes of an action; copies that ended go on as `Copies` says, not here."""
        ...


@pytree()
class Copies:
    """Many copies of an environment, each somewhere in an episode of its own.

    Attributes:
      states: the environments'.
      observations: what each shows.
      total: reward of each one's episode so far.
      length: actions of it so far.
    """

    states: Any
    observations: Array
    total: Float[Array, " copies"]
    length: Int[Array, " copies"]


@pytree()
class Transition:
    """A step of every copy, ``[copies]`` or ``[time, copies]``.

    Attributes:
      observation: before the action.
      action: taken.
      reward: for it.
      terminated, truncated: see `Moment`.
      final: the observation after it, also where the episode ended and the copy shows the next one's first.
      total, length: of the episode up to here, this step included.
    """

    observation: Array
    action: Int[Array, "..."]
    reward: Float[Array, "..."]
    terminated: Bool[Array, "..."]
    truncated: Bool[Array, "..."]
    final: Array
    total: Float[Array, "..."]
    length: Int[Array, "..."]


def check(environment: Environment) -> None:
    """Raises ValueError on an environment in which an episode could go on for ever, or nothing can be done."""
    name = type(environment).__name__
    if not environment.limit or environment.limit < 1:
        raise ValueError(
            f"{name}.limit is {environment.limit}, so an episode may never end; give the most actions of an episode"
        )
    if environment.actions < 2:
        raise ValueError(f"{name}.actions is {environment.actions}; a policy needs at least 2 to choose from")


def keys_of(key: jax.Array, rows: Int[Array, " copies"]) -> jax.Array:
    """A key for each copy, the same however the copies are divided over devices."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def start(environment: Environment, keys: jax.Array) -> Copies:
    """Copies at the beginning of an episode, one for each key.

    Example:
      >>> from ft_jax.rl.environments import CartPole
      >>> start(CartPole(), jax.random.split(jax.random.key(0), 3)).observations.shape
      (3, 1, 1, 4)
    """
    states, observations = jax.vmap(environment.reset)(keys)
    count = keys.shape[0]
    return Copies(states, observations, jnp.zeros(count), jnp.zeros(count, jnp.int32))


def advance(
    environment: Environment, copies: Copies, actions: Int[Array, " copies"], keys: jax.Array
) -> tuple[Copies, Transition]:
    """One action in every copy; an episode that ends is followed by a new one.

    An environment to which a new episode is dear has ``reset_if(wanted, key)``, see `Hosted`.
    """
    reset_if = getattr(environment, "reset_if", None)

    def one(state, observation, total, length, action, key):
        step_key, reset_key = jax.random.split(key)
        moment = environment.step(state, action, step_key)
        total, length = total + moment.reward, length + 1
        truncated = (moment.truncated | (length >= environment.limit)) & ~moment.terminated
        told = Transition(
            observation, action, moment.reward, moment.terminated, truncated, moment.observation, total, length
        )
        ended = moment.terminated | truncated
        again = reset_if(ended, reset_key) if reset_if else environment.reset(reset_key)
        state, seen = jax.tree.map(
            lambda new, old: jnp.where(ended, new, old), again, (moment.state, moment.observation)
        )
        return Copies(state, seen, jnp.where(ended, 0.0, total), jnp.where(ended, 0, length)), told

    fields = (copies.states, copies.observations, copies.total, copies.length)
    return jax.vmap(one)(*fields, actions, keys)


def play(environment: Environment, act, keys: jax.Array) -> tuple[Float[Array, " copies"], Int[Array, " copies"], Any]:
    """One episode of every copy from beginning to end, or to the limit.

    Args:
      environment: of them.
      act: ``(observations, keys) -> actions``.
      keys: one for each copy.

    Returns:
      The episodes' rewards, lengths, and whether each ended by itself.
    """
    begin = start(environment, keys)
    count = keys.shape[0]

    def more(carry):
        _, done, _, _, _, time = carry
        return ~done.all() & (time < environment.limit)

    def go_on(carry):
        copies, done, total, length, ended, time = carry
        now = jax.vmap(lambda key: jax.random.fold_in(key, time + 1))(keys)
        copies, told = advance(environment, copies, act(copies.observations, now), now)
        total = jnp.where(done, total, told.total)
        length = jnp.where(done, length, told.length)
        ended = jnp.where(done, ended, told.terminated)
        return copies, done | told.terminated | told.truncated, total, length, ended, time + 1

    nothing = (jnp.zeros(count, bool), jnp.zeros(count), jnp.zeros(count, jnp.int32), jnp.zeros(count, bool))
    _, _, total, length, ended, _ = jax.lax.while_loop(more, go_on, (begin, *nothing, jnp.int32(0)))
    return total, length, ended


def changed(environment: Environment, **changes) -> Environment:
    """The environment with some fields changed: a longer pole, other walls."""
    return dataclasses.replace(environment, **changes)
