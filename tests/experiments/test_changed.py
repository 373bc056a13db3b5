"""The experiment of changed environments: what it counts and claims."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.rl.changed import CHANGES, DOOR, EWC, MOVED, WALLS, Learning, claims, first_at_least, joined
from ft_jax.rl.environments.grid import ROOMS


def test_the_first_look_that_reaches_the_target_counts():
    assert first_at_least([0.1, 0.5, 0.2, 0.9], 0.5) == 1
    assert first_at_least([0.1, 0.2], 0.5) is None


def test_old_and_new_differ_and_have_one_shape():
    for change in CHANGES.values():
        assert change.old != change.new
        assert (change.old.observation, change.old.actions) == (change.new.observation, change.new.actions)
    assert sum(a != b for a, b in zip(DOOR, ROOMS, strict=True)) == 2 and MOVED != ROOMS


def test_claims_hold_where_every_seed_is_faster_and_both_are_solved():
    rows = [
        {"kind": "from scratch", "steps": [20, None], "new": [1.0, 0.9], "old": [0.1, 0.1]},
        {"kind": "going on", "steps": [10, 30], "new": [1.0, 1.0], "old": [0.2, 0.2]},
        {"kind": "EWC 1", "steps": [10, 10], "new": [1.0, 0.96], "old": [0.96, 1.0]},
        {"kind": "EWC 9", "steps": [None, None], "new": [0.3, 0.2], "old": [1.0, 1.0]},
    ]
    assert [claim.met for claim in claims("grid", WALLS, rows)] == [True, True, False]
    slower = [{**rows[0], "steps": [10, 30]}, *rows[1:]]
    assert not claims("grid", WALLS, slower)[0].met
    never = [{**row, "steps": [None, None]} for row in rows]
    assert not claims("grid", WALLS, never)[0].met


def test_agents_begin_with_networks_of_their_own_and_join():
    learning = Learning(WALLS, WALLS.old, 1)
    states = learning.begin(jax.random.split(jax.random.key(0), 2))
    kernel = jax.tree.leaves(states.params["model"])[-1]
    assert kernel.shape[0] == 2 and not np.array_equal(kernel[0], kernel[1])
    both = joined([states, states])
    assert both.step.shape == () and jax.tree.leaves(both.params)[0].shape[0] == 4
    assert both.hyper[EWC]["weight"].shape == (4,) and jnp.array_equal(both.key[:2], states.key)
