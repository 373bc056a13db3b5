import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import models
from ft_jax.core import make_step, optimizer, supervised
from ft_jax.core.members import map_members
from ft_jax.rl.agents import agent_ppo, dqn, lambda_returns, pqn, returns
from ft_jax.rl.agents.collect import collect, minibatch, orders
from ft_jax.rl.environments import CartPole, Grid, start

GRID = Grid(("...",), limit=8)


@functools.cache
def network(environment):
    config = models.MLPConfig(environment.observation, (16,), environment.actions, "tanh")
    return models.mlp(config, jax.random.key(0))


def program_of(method, environment=GRID, rate=0.01):
    build = optimizer(optax.adam, learning_rate=rate)
    return make_step(supervised(network(environment).apply), build, method, predict=returns)


def make(kind, environment=GRID, **options):
    return kind(network(environment).apply, network(environment).params, environment, **options)


METHODS = {
    "ppo": functools.partial(make, agent_ppo, copies=16, steps=16, epochs=2, minibatches=2, critic=(8,)),
    "pqn": functools.partial(make, pqn, copies=16, steps=8, epochs=2, minibatches=2, explore_updates=100.0),
    "dqn": functools.partial(
        make, dqn, copies=8, interval=2, capacity=512, size=32, begin=64, period=8, explore_updates=100.0, discount=0.9
    ),
}
NOTHING = {"seed": jnp.zeros(1, jnp.int32)}
SEEDS = {"seed": jnp.arange(50)}


@pytest.mark.parametrize("kind", METHODS)
def test_agents_learn_to_go_to_the_goal_in_one_program(kind):
    program = map_members(program_of(METHODS[kind]()), 2)

    @jax.jit
    def run(state):
        def one(state, _):
            state, metrics = program.step(state, NOTHING)
            return state, metrics["loss"]

        return jax.lax.scan(one, state, None, length=240)

    state = program.init(network(GRID).params, jax.random.key(0))
    before = program.evaluate(state, SEEDS).predictions.mean()
    state, losses = run(state)
    after = program.evaluate(state, SEEDS).predictions
    assert after.shape == (2, 50) and np.isfinite(losses).all()
    assert after.mean() > 0.9 > before


def test_an_epoch_goes_through_every_row_once():
    rows = {"row": jnp.arange(12)}
    order = orders(jax.random.key(0), jnp.int32(6), 2, 3, 12)
    seen = [minibatch(rows, order, jnp.int32(step), 3)["row"].tolist() for step in range(6, 12)]
    assert sorted(np.ravel(seen[:3])) == sorted(np.ravel(seen[3:])) == list(range(12)) and seen[:3] != seen[3:]


def test_what_is_collected_does_not_depend_on_the_devices():
    copies = start(CartPole(), jax.random.split(jax.random.key(0), 4))

    def decide(observations, keys):
        return jax.vmap(lambda key: jax.random.randint(key, (), 0, 2))(keys), ()

    alone = collect(CartPole(), decide, copies, jax.random.key(1), 5)[1]
    shared = jax.pmap(
        lambda _: collect(CartPole(), decide, copies, jax.random.key(1), 5, "data")[1], axis_name="data",
        devices=jax.devices()[:2],
    )(jnp.arange(2))  # fmt: skip
    for one, both in zip(jax.tree.leaves(alone), jax.tree.leaves(shared), strict=True):
        np.testing.assert_allclose(both[0], one, rtol=1e-5)
        np.testing.assert_array_equal(both[0], both[1])


def test_lambda_returns_equal_a_loop_through_ends_and_cuts():
    generator = np.random.default_rng(0)
    rewards, following = generator.normal(size=(2, 7, 1))
    ends, cuts = np.zeros((7, 1)), np.zeros((7, 1))
    ends[2], cuts[4] = 1, 1
    wanted, ahead = np.zeros((7, 1)), following[-1]
    for t in reversed(range(7)):
        mixed = following[t] if cuts[t] else 0.7 * ahead + 0.3 * following[t]
        wanted[t] = ahead = rewards[t] + 0.9 * (1 - ends[t]) * mixed
    found = lambda_returns(*map(jnp.asarray, (rewards, following, ends, cuts)), 0.9, 0.7)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_the_buffer_forgets_the_oldest_and_learning_waits_for_enough():
    method = METHODS["dqn"](capacity=40, begin=40)
    program = program_of(method)
    state = program.init(network(GRID).params, jax.random.key(0))
    step = jax.jit(program.step)
    for time in range(4):
        before = state
        state, metrics = step(state, NOTHING)
        waits = state.memory["rl.dqn"].stored < 40
        assert waits == (time < 2) and bool(metrics["loss"] == 0) == waits
        same = [
            np.array_equal(a, b) for a, b in zip(*(jax.tree.leaves(s.params) for s in (before, state)), strict=True)
        ]
        assert all(same) == bool(waits)
    assert state.memory["rl.dqn"].stored == 64 and state.memory["rl.dqn"].buffer["action"].shape == (40,)


def test_the_target_stays_between_its_periods():
    program = program_of(METHODS["dqn"](period=3, begin=1))
    state = program.init(network(GRID).params, jax.random.key(0))
    step, targets = jax.jit(program.step), []
    for _ in range(5):
        state, _ = step(state, NOTHING)
        targets.append(np.asarray(state.memory["rl.dqn"].target["model"]["head"]["kernel"]))
    moved = [not np.array_equal(a, b) for a, b in itertools.pairwise(targets)]
    assert moved == [False, False, True, False]


def test_an_environment_that_does_not_fit_the_policy_is_refused():
    two = models.mlp(models.MLPConfig(GRID.observation, (16,), 2), jax.random.key(0))
    with pytest.raises(ValueError, match="Grid has 4 actions, but the model's head chooses among 2; build the model"):
        agent_ppo(two.apply, two.params, GRID)
    with pytest.raises(ValueError, match=r"CartPole shows \(1, 1, 4\), which the model can't read"):
        agent_ppo(network(GRID).apply, network(GRID).params, CartPole())
    with pytest.raises(ValueError, match="so an episode may never end"):
        make(pqn, CartPole(limit=0))
    with pytest.raises(ValueError, match="5 copies × 3 steps, which do not divide into 4 minibatches"):
        make(agent_ppo, copies=5, steps=3)
    with pytest.raises(ValueError, match="capacity=10, below begin=10000"):
        make(dqn, capacity=10)


def test_the_log_tells_how_episodes_went():
    program = program_of(METHODS["ppo"]())
    state = program.init(network(GRID).params, jax.random.key(0))
    step = jax.jit(program.step)
    state, metrics = step(state, NOTHING)
    assert -0.1 <= metrics["rl.agent_ppo/return"] <= 1 and 1 <= metrics["rl.agent_ppo/length"] <= 8
    assert {
        "rl.agent_ppo/policy",
        "rl.agent_ppo/value",
        "rl.agent_ppo/entropy",
        "rl.agent_ppo/explained_variance",
    } <= set(metrics)
    # The first update is made at the policy that acted, from which later ones have gone away.
    assert metrics["rl.agent_ppo/clip_fraction"] == 0 and abs(metrics["rl.agent_ppo/old_kl"]) < 1e-6
    weight = state.hyper["rl.agent_ppo"]["entropy_weight"]
    entropy = metrics["rl.agent_ppo/policy_entropy"]
    np.testing.assert_allclose(entropy, -metrics["rl.agent_ppo/entropy"] / weight, rtol=1e-5)
    for _ in range(3):
        state, metrics = step(state, NOTHING)
    assert metrics["rl.agent_ppo/old_kl"] > 1e-6 and 0 <= metrics["rl.agent_ppo/clip_fraction"] < 1


@pytest.mark.parametrize("kind", ["dqn", "pqn"])
def test_the_log_tells_what_the_values_say_of_the_actions(kind):
    program = program_of(METHODS[kind]())
    state = program.init(network(GRID).params, jax.random.key(0))
    after, metrics = jax.jit(program.step)(state, NOTHING)
    assert after.step == 1
    told = metrics[f"rl.{kind}/q_values"]
    # Before the first update the values are those of the network as it was made, of some of what it saw.
    memory = after.memory[f"rl.{kind}"]
    rows = memory.rows if kind == "pqn" else memory.buffer
    values = network(GRID).apply(state.params["model"], {GRID.field: rows["observation"]}).logits
    seen = np.take_along_axis(np.asarray(values), np.asarray(rows["action"])[:, None], axis=1)
    assert seen.min() <= told <= seen.max() and np.isfinite(told)
