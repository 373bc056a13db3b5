"""Law 10: every method with every other trains, or is refused when composed, with one sentence that says why."""

import datetime
import random

import jax
import jax.numpy as jnp
import pytest
from laws.pairs import ORDERED, UNORDERED, descends, trace, try_pair
from laws.problem import NAMES, batch_of, start, train

SAMPLE = random.Random(datetime.date.today().toordinal()).sample(ORDERED, min(8, len(ORDERED)))


@pytest.mark.parametrize("outer", NAMES)
def test_every_pair_traces_or_is_refused_when_composed(outer, pair_results):
    for inner in (name for name in NAMES if name != outer):
        pair, program = try_pair(outer, inner)
        pair_results.append(pair)
        if program is None:
            assert outer in pair.refusal or inner in pair.refusal
            assert "\n" not in pair.refusal and len(pair.refusal.split()) > 6
            continue
        before, (after, metrics) = trace(program, outer, inner)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(lambda x: (x.shape, x.dtype), after)
        assert "loss" in metrics


def test_every_pair_trains_in_at_least_one_order():
    for one, other in UNORDERED:
        (first, program), (second, swapped) = try_pair(one, other), try_pair(other, one)
        # What excludes each other says so in one sentence, whatever the order.
        alone = program is None and first.refusal == second.refusal
        assert program is not None or swapped is not None or alone, f"{first.refusal} / {second.refusal}"


@pytest.mark.parametrize(("outer", "inner"), SAMPLE)
def test_a_rotating_sample_of_pairs_trains(outer, inner):
    pair, program = try_pair(outer, inner)
    if program is None:
        pytest.skip(pair.refusal)
    _, history = train(jax.jit(program.step), start(program), batch_of(outer, inner), steps=4)
    assert all(jnp.all(jnp.isfinite(value)) for metrics in history for value in jax.tree.leaves(metrics))
    assert descends(history), history
