import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax.rl.environments import (
    Acrobot,
    Breakout,
    CartPole,
    Environment,
    Grid,
    Gymnax,
    advance,
    check,
    keys_of,
    play,
    start,
)
from ft_jax.rl.environments.grid import Place

RECORD = json.loads((Path(__file__).parents[2] / "golden" / "environments.json").read_text(encoding="utf-8"))
ALL = (CartPole(), Acrobot(), Grid(), Breakout())


def led(environment, state, actions):
    """What comes of the actions one after another, without new episodes."""

    def one(state, action):
        moment = environment.step(state, action, jax.random.key(0))
        return moment.state, moment

    return jax.jit(lambda state: jax.lax.scan(one, state, jnp.asarray(actions))[1])(state)


@pytest.mark.parametrize(("name", "environment"), [("cartpole", CartPole()), ("acrobot", Acrobot())])
def test_the_classics_move_as_gymnasiums(name, environment):
    for episode in RECORD[name]:
        found = led(environment, jnp.asarray(episode["start"], jnp.float32), episode["actions"])
        np.testing.assert_allclose(found.state, episode["states"], rtol=2e-3, atol=2e-4)
        assert found.terminated.tolist() == episode["ends"] and found.reward.tolist() == episode["rewards"]


def test_breakout_goes_as_minatars():
    for episode in RECORD["breakout"]:
        court, _ = next(
            begin
            for begin in (Breakout().reset(jax.random.key(seed)) for seed in range(20))
            if begin[0].ball.tolist() == episode["start"]
        )
        found = led(Breakout(), court, episode["actions"])
        states = found.state
        places = np.stack([states.ball[:, 0], states.ball[:, 1], states.paddle, states.bricks.sum((1, 2))], axis=1)
        assert places.tolist() == episode["places"]
        assert found.terminated.tolist() == episode["ends"] and found.reward.tolist() == episode["rewards"]
    assert sum(sum(episode["rewards"]) for episode in RECORD["breakout"]) > 30


@pytest.mark.parametrize("environment", ALL, ids=lambda one: type(one).__name__)
def test_copies_equal_single_episodes_and_begin_again_at_the_end(environment):
    assert isinstance(environment, Environment)
    environment = dataclasses.replace(environment, limit=5)
    keys = jax.random.split(jax.random.key(0), 3)
    copies = start(environment, keys)
    assert copies.observations.shape == (3, *environment.observation)
    step = jax.jit(lambda copies, actions, keys: advance(environment, copies, actions, keys))
    for time in range(12):
        now = keys_of(jax.random.fold_in(jax.random.key(1), time), jnp.arange(3))
        actions = jax.random.randint(jax.random.key(time), (3,), 0, environment.actions)
        before, (copies, told) = copies, step(copies, actions, now)
        for row in range(3):
            own = jax.tree.map(lambda x, row=row: x[row : row + 1], before)
            alone, alone_told = step(own, actions[row : row + 1], now[row : row + 1])
            for one, other in zip(jax.tree.leaves((alone, alone_told)), jax.tree.leaves((copies, told)), strict=True):
                np.testing.assert_allclose(one[0], other[row], rtol=1e-6)
        ended = told.terminated | told.truncated
        assert (copies.length[ended] == 0).all() and (told.length <= 5).all()
        assert (told.truncated == ((told.length == 5) & ~told.terminated)).all()


def test_a_time_limit_is_no_end():
    total, length, ended = play(
        CartPole(limit=3), lambda seen, keys: jnp.zeros(2, jnp.int32), jax.random.split(jax.random.key(0), 2)
    )
    assert total.tolist() == [3.0, 3.0] and length.tolist() == [3, 3] and not ended.any()


def test_walls_stop_the_robot_and_the_goal_ends_the_episode():
    grid = Grid(("..#", "..."))
    place = Place(jnp.array([0, 1]), jnp.array([1, 1]))
    found = led(grid, place, [1, 0, 3, 1, 2])
    assert found.state.robot.tolist() == [[0, 1], [0, 1], [0, 0], [0, 1], [1, 1]]
    assert found.terminated.tolist() == [False] * 4 + [True]
    np.testing.assert_allclose(found.reward, [-0.01] * 4 + [1.0], rtol=1e-6)
    image = found.observation[-1]
    assert image[:, :, 0].tolist() == [[0, 0, 1], [0, 0, 0]] and image[1, 1].tolist() == [0, 1, 1]


def test_a_map_that_can_not_be_walked_is_refused():
    with pytest.raises(ValueError, match=r"can't be reached from \(0, 0\); open a wall"):
        Grid((".#.",))
    with pytest.raises(ValueError, match=r"give rows of one length made of '\.' \(free\) and '#' \(wall\)"):
        Grid(("..", "."))
    with pytest.raises(ValueError, match="1 free places; it needs at least two"):
        Grid((".#",))


def test_an_episode_that_never_ends_is_refused():
    with pytest.raises(ValueError, match="CartPole.limit is None, so an episode may never end"):
        check(CartPole(limit=None))


def test_a_longer_pole_falls_more_slowly():
    begin = jnp.array([0.0, 0.0, 0.05, 0.0])
    short, long = (led(CartPole(length=size), begin, [0, 1] * 5).state[-1, 2] for size in (0.5, 1.5))
    assert abs(long) < abs(short)


def test_gymnax_is_asked_for_where_it_is_missing():
    try:
        import gymnax  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="pip install 'gymnax>=1.0'"):
            Gymnax("CartPole-v1")
        return
    assert Gymnax("CartPole-v1").observation == (1, 1, 4)
