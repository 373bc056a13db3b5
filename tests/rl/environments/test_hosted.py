"""Environments on the host act as they do by themselves, as pure functions of their histories."""

import dataclasses
import types

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.small import same_bits

from ft_jax.core import compose, make_step, optimizer, supervised
from ft_jax.core.members import map_members
from ft_jax.models import MLPConfig, mlp
from ft_jax.rl.agents import agent_ppo, episode_return, returns
from ft_jax.rl.environments import Hosted, advance, play, start
from ft_jax.training import Budget, CheckpointSpec, EvaluationSpec, Experiment, Use, fit
from ft_jax.training.episodes import Episodes
from ft_jax.training.specs import Untrained


class Walk:
    """A line of nine places, a random push at the start; the right end pays."""

    action_space, observation_space = types.SimpleNamespace(n=2), types.SimpleNamespace(shape=(3,))
    made = 0

    def __init__(self):
        Walk.made += 1

    def reset(self, seed):
        self.draw = np.random.default_rng(seed)
        self.place = int(self.draw.integers(2, 6))
        return self.shown(), {}

    def step(self, action):
        self.place += 2 * int(action) - 1
        return self.shown(), float(self.place == 8), self.place in (0, 8), False, {}

    def shown(self):
        return np.array([self.place / 8, self.draw.normal(), 1.0])


def directly(world, seed, actions):
    """``(observations, rewards, terminated)`` of an episode by the environment's own functions."""
    seen, _ = world.reset(seed=seed)
    rows = [(np.asarray(seen, np.float32), 0.0, False)]
    for action in actions:
        seen, reward, ended, _, _ = world.step(action)
        rows.append((np.asarray(seen, np.float32), reward, ended))
        if ended:
            break
    return [np.stack(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize(("make", "own"), [("CartPole-v1", lambda: gymnasium.make("CartPole-v1")), (Walk, Walk)])
def test_an_episode_is_the_environments_own(make, own):
    world = Hosted(make)
    actions = np.random.default_rng(0).integers(0, 2, 6)
    state, first = jax.jit(world.reset)(jax.random.key(5))
    seen, rewards, ended = directly(own(), int(state.seed), actions)
    np.testing.assert_array_equal(first.ravel(), seen[0])
    for at, action in enumerate(actions[: len(seen) - 1]):
        told = jax.jit(world.step)(state, jnp.int32(action), jax.random.key(0))
        state = told.state
        np.testing.assert_array_equal(told.observation.ravel(), seen[at + 1])
        assert float(told.reward) == rewards[at + 1] and bool(told.terminated) == ended[at + 1]
    assert int(state.length) == len(seen) - 1


def acting(world, copies, steps):
    """Everything that comes of acting by a rule in some copies."""

    def one(carry, time):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(9), time), carry.total.shape[0])
        actions = (carry.observations.reshape(carry.total.shape[0], -1)[:, 1] > 0).astype(jnp.int32)
        return advance(world, carry, actions, keys)

    return jax.jit(lambda copies: jax.lax.scan(one, copies, jnp.arange(steps)))(copies)


def test_what_the_host_has_forgotten_is_led_there_again():
    world, again = Hosted(Walk), Hosted(Walk)
    copies = start(world, jax.random.split(jax.random.key(1), 5))
    middle, _ = acting(world, copies, 7)
    whole, told = acting(world, middle, 9)
    resumed, same = acting(again, jax.tree.map(jnp.array, middle), 9)  # another process would have none of them
    jax.tree.map(np.testing.assert_array_equal, (whole, told), (resumed, same))


def test_a_host_call_serves_all_copies_and_resets_none_in_vain():
    world = Hosted(Walk)
    calls = []
    world._worlds.step, step = lambda *given: calls.append(given[0].shape) or step(*given), world._worlds.step
    copies = start(world, jax.random.split(jax.random.key(1), 5))
    made = Walk.made
    _, told = acting(world, copies, 40)
    assert set(calls) == {(5,)} and len(calls) == 40
    assert told.terminated.any() and Walk.made == made  # an episode that ended leaves its world to the next


def test_members_and_devices_act_as_each_alone():
    model = mlp(MLPConfig((1, 1, 3), (8,), 2, "tanh"), jax.random.key(0))

    def program(world, **options):
        method = agent_ppo(model.apply, model.params, world, copies=4, steps=8, epochs=1, minibatches=2, critic=(8,))
        return make_step(supervised(model.apply), optimizer(optax.adam, learning_rate=0.02), method, **options)

    batch = {"seed": jnp.zeros(1, jnp.int32)}

    def trained(made, key, steps=4):
        state, step = made.init(model.params, key), jax.jit(made.step)
        for _ in range(steps):
            state, _ = step(state, batch)
        return state

    alone = [trained(program(Hosted(Walk)), key) for key in jax.random.split(jax.random.key(3), 3)]
    members = trained(map_members(program(Hosted(Walk)), 3), jax.random.key(3))
    for at, one in enumerate(alone):
        mine = jax.tree.map(lambda leaf, at=at: leaf[at], members.params)
        for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(mine), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)
    mapped = program(Hosted(Walk), axis="data")
    state = jax.tree.map(lambda x: jnp.stack([x] * 2), mapped.init(model.params, jax.random.key(4)))
    step = jax.pmap(mapped.step, axis_name="data", devices=jax.devices()[:2])
    for _ in range(4):
        state, _ = step(state, {"seed": jnp.zeros((2, 1), jnp.int32)})
    one = trained(program(Hosted(Walk)), jax.random.key(4))
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b[0], atol=2e-5)


def test_a_policy_learns_on_the_host():
    model = mlp(MLPConfig((1, 1, 3), (16,), 2, "tanh"), jax.random.key(0))
    world = Hosted(Walk, limit=40)
    method = agent_ppo(model.apply, model.params, world, copies=8, steps=16, epochs=2, minibatches=2, critic=(16,))
    program = make_step(supervised(model.apply), optimizer(optax.adam, learning_rate=0.02), compose(method))
    state, step = program.init(model.params, jax.random.key(0)), jax.jit(program.step)
    for _ in range(60):
        state, metrics = step(state, {"seed": jnp.zeros(1, jnp.int32)})
    assert float(metrics["rl.agent_ppo/return"]) > 0.9 and step._cache_size() == 1


def run_of(world):
    """A run whose agent acts on the host."""
    return Experiment(
        name="hosted",
        model=Untrained(MLPConfig((1, 1, 3), (8,), 2, "tanh")),
        data=Episodes(8),
        method=(Use("rl.agent_ppo", environment=world, copies=4, steps=8, epochs=1, minibatches=2, critic=(8,)),),
        budget=Budget(steps=12, batch_size=1),
        loss=lambda model: supervised(model.apply),
        predict=returns,
        metrics={"return": episode_return},
        evaluation=EvaluationSpec(every=6, metric="return", mode="max"),
        checkpoints=CheckpointSpec(every=5),
    )


def test_a_run_goes_on_in_the_same_bits_where_no_world_is_left(tmp_path):
    def stop(moment):
        if moment.step == 6:
            raise KeyboardInterrupt

    whole = fit(run_of(Hosted(Walk)), run=tmp_path / "whole", quiet=True)
    with pytest.raises(KeyboardInterrupt):
        fit(run_of(Hosted(Walk)), run=tmp_path / "parts", quiet=True, callbacks=[stop])
    parts = fit(run_of(Hosted(Walk)), run=tmp_path / "parts", quiet=True)
    same_bits(whole.state, parts.state)
    assert whole.scores == parts.scores


def broken(**changes):
    """A class of walks with something else about it."""
    return type("Broken", (Walk,), changes)


def test_what_cannot_be_acted_in_is_refused():
    box = types.SimpleNamespace(shape=(2,))
    with pytest.raises(ValueError, match="Broken acts in .* no choice among a few actions"):
        Hosted(broken(action_space=box))
    with pytest.raises(ValueError, match="Broken shows .* no array of one shape"):
        Hosted(broken(observation_space=types.SimpleNamespace(spaces={})))
    one_hot = Hosted(broken(observation_space=types.SimpleNamespace(n=9), shown=lambda self: self.place))
    _, seen = one_hot.reset(jax.random.key(0))
    assert one_hot.observation == (1, 1, 9) and float(seen.sum()) == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"step": lambda self, action: 1 / 0},
            "Broken raised ZeroDivisionError after 0 actions from seed .*: division by zero",
        ),
        ({"step": lambda self, action: (self.shown(), np.nan, False, False, {})}, "Broken rewards nan after 0 actions"),
        ({"shown": lambda self: np.zeros(4)}, r"Broken shows .* at its reset with seed .*; it said finite \(1, 1, 3\)"),
    ],
)
def test_a_broken_world_is_told_with_its_place(change, message):
    world = Hosted(broken(**change))
    with pytest.raises(Exception, match=message):
        play(world, lambda seen, keys: jnp.zeros(seen.shape[0], jnp.int32), jax.random.split(jax.random.key(0), 2))


def test_a_world_with_randomness_of_its_own_does_not_go_on_silently():
    def reset(self, seed):
        return Walk.reset(self, np.random.default_rng().integers(1 << 30))

    other = broken(reset=reset)
    copies = start(Hosted(other), jax.random.split(jax.random.key(1), 5))
    middle, _ = acting(Hosted(Walk), dataclasses.replace(copies), 0)
    with pytest.raises(Exception, match="draw all that is random in it from the seed"):
        acting(Hosted(other), middle, 3)
