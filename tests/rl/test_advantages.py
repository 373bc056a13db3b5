import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax.rl import advantages

REWARDS = np.random.default_rng(0).normal(size=12).astype(np.float32)


def test_groups_are_standardised_as_trl_does():
    groups = REWARDS.reshape(3, 4)
    wanted = (groups - groups.mean(1, keepdims=True)) / (groups.std(1, ddof=1, keepdims=True) + 1e-4)
    np.testing.assert_allclose(advantages.group_relative(REWARDS, 4), wanted.reshape(-1), rtol=1e-4)
    scaled = (groups - groups.mean(1, keepdims=True)).reshape(-1)
    np.testing.assert_allclose(advantages.group_relative(REWARDS, 4, scale="none"), scaled, rtol=1e-4, atol=1e-6)
    batch = advantages.group_relative(REWARDS, 4, scale="batch")
    np.testing.assert_allclose(batch, scaled / (REWARDS.std(ddof=1) + 1e-4), rtol=1e-4)


def test_leave_one_out_compares_with_the_others_alone():
    slow = [
        REWARDS[i] - np.mean([REWARDS[j] for j in range(i // 4 * 4, i // 4 * 4 + 4) if j != i])
        for i in range(len(REWARDS))
    ]
    np.testing.assert_allclose(advantages.leave_one_out(REWARDS, 4), slow, rtol=1e-4, atol=1e-6)


def test_an_answer_that_could_not_be_scored_changes_nothing():
    rewards = REWARDS.copy()
    rewards[[1, 4, 5, 6, 7]] = np.nan
    for estimate in (
        lambda r, size: advantages.group_relative(r, size, scale="none"),
        advantages.leave_one_out,
    ):
        found = estimate(jnp.asarray(rewards), 4)
        assert np.isfinite(found).all() and not found[jnp.array([1, 4, 5, 6, 7])].any()
        without = estimate(jnp.asarray(np.delete(rewards[:4], 1)), 3)
        np.testing.assert_allclose(found[jnp.array([0, 2, 3])], without, rtol=1e-4, atol=1e-6)
    assert np.isfinite(advantages.whitened(jnp.asarray(rewards))).all()


def test_equal_rewards_give_no_advantage():
    for found in (
        advantages.group_relative(jnp.ones(4), 2),
        advantages.leave_one_out(jnp.ones(4), 2),
        advantages.reinforce_plus_plus(jnp.ones(4)),
        advantages.reinforce_plus_plus(jnp.ones(4), 2, baseline=True),
    ):
        assert not found.any()


def test_groups_of_one_are_refused():
    with pytest.raises(ValueError, match="samples is 1; an answer is compared with the others of its group"):
        advantages.group_relative(jnp.ones(4), 1)
    with pytest.raises(ValueError, match="5 rewards are no whole groups of 2"):
        advantages.leave_one_out(jnp.ones(5), 2)


def slow_estimate(rewards, values, next_value, ends, discount, trace, cuts, finals):
    time = len(rewards)
    found, running = np.zeros(time), 0.0
    for t in reversed(range(time)):
        following = next_value if t == time - 1 else values[t + 1]
        if cuts[t]:
            following, running = finals[t], 0.0
        if ends[t]:
            following, running = 0.0, 0.0
        running = rewards[t] + discount * following - values[t] + discount * trace * running
        found[t] = running
    return found


def test_advantages_over_time_equal_a_loop_through_ends_and_cuts():
    generator = np.random.default_rng(1)
    rewards, values, finals = generator.normal(size=(3, 9))
    ends, cuts = np.zeros(9), np.zeros(9)
    ends[3], cuts[6] = 1, 1
    found = advantages.generalised(
        *map(jnp.asarray, (rewards, values, 0.4, ends)), discount=0.9, trace=0.8, cuts=jnp.asarray(cuts),
        final_values=jnp.asarray(finals),
    )  # fmt: skip
    np.testing.assert_allclose(
        found, slow_estimate(rewards, values, 0.4, ends, 0.9, 0.8, cuts, finals), rtol=1e-4, atol=1e-5
    )


def test_a_trace_of_one_gives_returns_and_of_zero_single_steps():
    rewards, values = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 0.4, 0.3])
    estimate = jax.jit(lambda trace: advantages.generalised(rewards, values, jnp.array(0.0), jnp.zeros(3), trace=trace))
    np.testing.assert_allclose(estimate(1.0) + values, advantages.to_go(rewards[None], 0.99)[0], rtol=1e-5)
    np.testing.assert_allclose(estimate(0.0), rewards + 0.99 * jnp.array([0.4, 0.3, 0.0]) - values, rtol=1e-5)
