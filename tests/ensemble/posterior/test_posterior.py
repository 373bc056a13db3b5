"""Averages along a run and draws around it, against recursions and recorded trajectories."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ensemble.small import apply, batch, flat, params, program, trajectory

from ft_jax.core import Method, outputs_of
from ft_jax.ensemble import ema, mc_dropout, mean, snapshots, swa, swag


def settled(method, state):
    return flat(method.settle(state).params)


def test_the_moving_average_is_the_recursion_and_is_what_evaluation_sees():
    method = ema(0.6)
    made = program(method)
    states = trajectory(made, 5)
    average = np.asarray(flat(params()))
    for number, state in enumerate(states, 1):
        rate = min(0.6, (1 + number) / (10 + number))
        average = rate * average + (1 - rate) * np.asarray(flat(state.params))
    np.testing.assert_allclose(settled(method, states[-1]), average, rtol=1e-5)
    plain = program()
    wanted = plain.evaluate(trajectory(plain, 1)[0].replace(params=method.settle(states[-1]).params), batch(9))
    np.testing.assert_allclose(made.evaluate(states[-1], batch(9)).predictions, wanted.predictions, rtol=1e-5)


@pytest.mark.parametrize("method", [ema(), swa(period=2), swag(2, rank=2, period=1), mc_dropout(3)])
def test_training_goes_on_as_without_it(method):
    np.testing.assert_array_equal(
        flat(trajectory(program(method), 4)[-1].params), flat(trajectory(program(), 4)[-1].params)
    )


def test_the_average_of_a_run_is_that_of_its_collected_parameters():
    method = swa(period=2, start=1)
    states = trajectory(program(method), 7)
    np.testing.assert_array_equal(settled(method, states[1]), flat(states[1].params))
    wanted = np.mean([flat(states[index - 1].params) for index in (3, 5, 7)], axis=0)
    np.testing.assert_allclose(settled(method, states[-1]), wanted, rtol=1e-5)


def test_draws_have_the_trajectorys_mean_and_covariance():
    method = swag(samples=2, rank=3, period=1, scale=0.5)
    states = trajectory(program(method), 6)
    points = np.stack([np.asarray(flat(state.params)) for state in states])
    np.testing.assert_allclose(settled(method, states[-1]), points.mean(0), atol=1e-5)
    means = np.stack([points[: n + 1].mean(0) for n in range(6)])
    deviations = (points - means)[3:]
    wanted = 0.5 * (np.diag(points.var(0)) / 2 + deviations.T @ deviations / (2 * (3 - 1)))
    memory = states[-1].memory["ensemble.swag"]

    def draw(number):
        return flat(method.settle(states[-1].remember("ensemble.swag", {**memory, "draw": number})).params)

    drawn = np.asarray(jax.jit(jax.vmap(draw))(jnp.arange(20_000)))
    np.testing.assert_allclose(drawn.mean(0), points.mean(0), atol=5e-3)
    np.testing.assert_allclose(np.cov(drawn.T), wanted, atol=0.05 * wanted.max())


def test_snapshots_are_the_ends_of_cycles_and_evaluate_to_their_mean():
    made, plain = program(snapshots(3, period=2)), program()
    states = trajectory(made, 4)
    kept = states[-1].memory["ensemble.snapshots"]
    assert int(kept["count"]) == 2
    ends = [states[1], states[3]]
    for place, state in enumerate(ends):
        np.testing.assert_array_equal(flat(jax.tree.map(lambda x, p=place: x[p], kept["params"])), flat(state.params))
    bare = trajectory(plain, 1)[0]
    alone = [plain.evaluate(bare.replace(params=state.params), batch(9)).predictions for state in (*ends, ends[0])]
    np.testing.assert_allclose(
        made.evaluate(states[-1], batch(9)).predictions, mean(jnp.stack(alone)), rtol=1e-4, atol=1e-5
    )


def test_a_cycles_rate_falls_as_half_a_cosine():
    states = trajectory(program(snapshots(2, period=4)), 2)
    plain = trajectory(program(), 1)
    np.testing.assert_allclose(flat(states[0].params), flat(plain[0].params), rtol=1e-6)
    bare = program()
    second, _ = bare.step(plain[0].replace(params=states[0].params), batch(1))
    share = 0.5 * (np.cos(np.pi / 4) + 1)
    moved = flat(second.params) - flat(states[0].params)
    np.testing.assert_allclose(flat(states[1].params) - flat(states[0].params), share * moved, rtol=1e-4, atol=1e-6)


def test_dropout_is_on_in_evaluation_and_off_in_serving():
    method = mc_dropout(400)
    made = program(method)
    state = made.init(params(), jax.random.key(3))
    chances = np.exp(made.evaluate(state, batch(9)).predictions)
    served = outputs_of(state, method, apply, batch(9)).logits
    np.testing.assert_array_equal(served, apply(params(), batch(9)).logits)
    keys = jax.random.split(jax.random.key(0), 4000)
    sampled = jax.vmap(lambda key: jax.nn.softmax(apply(params(), batch(9), key).logits))(keys)
    np.testing.assert_allclose(chances, sampled.mean(0), atol=6 * float(sampled.std()) / np.sqrt(400))
    assert np.abs(chances - jax.nn.softmax(served)).max() > 5e-3
    np.testing.assert_array_equal(np.exp(made.evaluate(state, batch(9)).predictions), chances)


def test_samples_are_of_what_answers_in_an_evaluation():
    def answered(inner):
        def forward(params, batch, context):
            outputs = inner(params, batch, context)
            if context.train:
                return outputs
            wide = jnp.concatenate([outputs.unembedding, -2 * outputs.unembedding])
            return dataclasses.replace(outputs, hidden=jnp.tile(outputs.hidden, 2), unembedding=wide)

        return forward

    made = program(mc_dropout(400), Method("other", forward=answered))
    chances = np.exp(made.evaluate(made.init(params(), jax.random.key(3)), batch(9)).predictions)
    keys = jax.random.split(jax.random.key(0), 4000)
    sampled = jax.vmap(lambda key: jax.nn.softmax(-apply(params(), batch(9), key).logits))(keys)
    np.testing.assert_allclose(chances, sampled.mean(0), atol=6 * float(sampled.std()) / np.sqrt(400))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ema(1.0), "ensemble.ema has decay 1.0"),
        (lambda: swa(period=0), "ensemble.swa collects every 0 steps"),
        (lambda: swag(rank=1), "a spread needs at least 2"),
        (lambda: swag(fusion="median"), "ensemble.swag can't fuse by 'median'"),
        (lambda: snapshots(0), "ensemble.snapshots evaluates 0 draws"),
        (lambda: mc_dropout(0), "ensemble.mc_dropout evaluates 0 draws"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(make, says):
    with pytest.raises(ValueError, match=says):
        make()
