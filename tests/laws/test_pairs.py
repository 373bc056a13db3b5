"""Law 10: every method with every other trains, or is refused when composed, with one sentence that says why."""

import datetime
import itertools
import random
import time

import jax
import pytest

import ft_jax
from ft_jax.core import compose
from ft_jax.testing import laws, matrix, pairs
from ft_jax.testing.problem import example

NAMES = tuple(ft_jax.catalogue)
TODAY = datetime.date.today().toordinal()
SHARES = 2
"""Of the pairs and of the time, for as many workers."""
SECONDS = 90
"""Of processor time for each share."""
TRAINED = 5
TRIPLES, MANY_TRIPLES = 4, 60


@pytest.fixture(scope="module")
def refusals():
    return {pair: pairs.refusal(*pair) for pair in matrix.ordered()}


@pytest.mark.always
def test_every_pair_composes_or_is_refused_in_a_sentence(refusals, law_counts):
    for (outer, inner), sentence in refusals.items():
        if sentence is not None:
            pairs.check_refusal(pairs.Pair(outer, inner, sentence))
    refused = [sentence for sentence in refusals.values() if sentence is not None]
    law_counts.append({"methods": len(NAMES), "pairs": len(refusals), "refused": len(refused)})


@pytest.mark.always
def test_every_pair_composes_in_at_least_one_order(refusals):
    for one, other in itertools.combinations(NAMES, 2):
        first, second = refusals[one, other], refusals[other, one]
        if first is None or second is None or first == second:
            continue
        # What excludes each other says so of both, whatever the order; of two reasons each order may meet another.
        assert all(name in sentence for name in (one, other) for sentence in (first, second)), f"{first} / {second}"


def test_lifts_step_and_evaluate_over_one_another_in_every_order(refusals):
    lifts = [name for name in NAMES if any(part.lift is not None for part in compose(example(name)))]
    for pair in itertools.permutations(lifts, 2):
        if refusals[pair] is None:
            pairs.check_traces(pairs.composition(*pair))


@pytest.mark.always
@pytest.mark.parametrize("share", range(SHARES))
def test_pairs_trace_for_as_long_as_there_is_time(share, law_counts):
    """First those of methods changed since the matrix ran, then a rotating sample; the first few also train."""
    began, traced, trained = time.process_time(), 0, 0
    turn = itertools.islice(matrix.waiting(matrix.recorded(), pairs.digests(), TODAY), share, None, SHARES)
    for place, pair in enumerate(turn, 1):
        if time.process_time() - began > SECONDS:
            break
        if pairs.refusal(*pair) is None:
            subject = pairs.composition(*pair)
            pairs.check_traces(subject)
            traced += 1
            if trained < TRAINED:
                trained += 1
                first, last, trains = matrix.descent(*pair, subject)
                assert trains, f"{subject.name} goes from {first} to {last}"
        if place % matrix.FORGET == 0:
            jax.clear_caches()
    law_counts.append({"traced": traced, "trained": trained})
    assert traced >= min(TRAINED, len(NAMES) - 1)


@pytest.mark.parametrize("turn", range(TRIPLES))
def test_a_rotating_triple_holds_members_devices_and_micro_batches_together(turn, law_counts):
    subject = a_triple(random.Random(TRIPLES * TODAY + turn))
    laws.members_devices_and_micro_batches_change_nothing(subject)
    law_counts.append({"triples": 1})


@pytest.mark.laws
@pytest.mark.parametrize("turn", range(MANY_TRIPLES))
def test_many_triples_hold_members_devices_and_micro_batches_together(turn, law_counts):
    subject = a_triple(random.Random(f"many {TODAY} {turn}"))
    laws.members_devices_and_micro_batches_change_nothing(subject)
    law_counts.append({"triples": 1})


def a_triple(draw: random.Random):
    """Three methods that compose, in a drawn order."""
    while True:
        try:
            return pairs.composition(*draw.sample(NAMES, 3))
        except ValueError:
            continue
