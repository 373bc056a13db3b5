import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_jax.tuning import promoted
from ft_jax.tuning.schedules import Asha, MedianStopping, Pbt, as_schedule

KEY = jax.random.key(0)


@functools.cache
def compiled(schedule):
    return jax.jit(schedule.decide)


def played(schedule, score, members, trials, evaluations):
    """The trials that members run before every evaluation, and the record at the end."""
    record, trial = schedule.start(members, trials), jnp.arange(members, dtype=jnp.int32)
    decide, age, seen = compiled(schedule), [0] * trials, []
    for _ in range(evaluations):
        seen.append(trial.tolist())
        scores = []
        for one in seen[-1]:
            if one >= 0:
                age[one] += 1
            scores.append(score(one, age[one]) if one >= 0 else math.nan)
        record, trial, *_ = decide(record, trial, jnp.array(scores, jnp.float32), KEY)
    return seen, record


def test_asha_follows_a_table_made_by_hand():
    # Two members, rungs after 1, 3 and 9 evaluations, trials that score their own number: 0 1 2 3 4 5 6 7 8.
    seen, _ = played(Asha((1, 3, 9)), lambda trial, age: trial, 2, 9, 14)
    # 0 and 1 are two at rung 1, of which ⌊2/3⌋ go on: none. 2 is the best of three there and goes on, 3 of four.
    # At rung 3 they are two, so 4 and 5 begin; of five and six at rung 1 the best go on, and at rung 3 they are the
    # best of three and of four, so they become whole. Then 6 and 7 begin.
    assert seen == [[0, 1], *[[2, 3]] * 3, *[[4, 5]] * 9, [6, 7]]


def slowly(rungs, eta, scores, members, evaluations):
    """The same by lists and `promoted`, which has a table of its own."""
    trials, age = len(scores), {}
    reached = [[] for _ in rungs]
    gone = [set() for _ in rungs]
    running, following, seen = list(range(members)), members, []
    for _ in range(evaluations):
        seen.append(list(running))
        for trial in running:
            if trial >= 0:
                age[trial] = age.get(trial, 0) + 1
        for member, trial in enumerate(seen[-1]):
            if trial < 0 or age[trial] not in rungs:
                continue
            reached[rungs.index(age[trial])].append(trial)
            job = None
            for rung in range(len(rungs) - 2, -1, -1):
                there = sorted(reached[rung])
                places = promoted([scores[t][rung] for t in there], [there.index(t) for t in gone[rung]], eta)
                if places:
                    job = there[places[0]]
                    gone[rung].add(job)
                    break
            if job is None:
                job = following if following < trials else -1
                following += job >= 0
            running[member] = job
    return seen


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(2, 7), (4, 12)]), st.sampled_from([2, 3]))
def test_asha_is_the_algorithm_by_lists(seed, sizes, eta):
    members, trials = sizes
    rungs = (1, 2, 4)
    scores = np.random.default_rng(seed).normal(size=(trials, 3)).astype(np.float32)
    seen, _ = played(
        Asha(rungs, eta),
        lambda t, age: scores[t][min(max(rungs.index(age) if age in rungs else 0, 0), 2)],
        members,
        trials,
        16,
    )
    assert seen == slowly(rungs, eta, scores.tolist(), members, 16)


def test_asha_gives_the_best_of_nine_a_whole_trial_and_a_diverged_one_none():
    schedule = Asha((1, 3, 9))
    score = lambda trial, age: math.nan if trial == 8 else trial  # noqa: E731
    seen, record = played(schedule, score, 3, 9, schedule.evaluations(9, 3))
    ages = record["age"].tolist()
    assert max(ages) == 9 and ages[8] == 1 and min(ages) == 1
    assert seen[-1].count(-1) >= 1 and sum(ages) < 0.6 * 9 * 9


def test_median_stopping_follows_a_table_made_by_hand():
    # One member; a whole trial is 3 evaluations. Trials 0 and 1 are whole, with running averages 1, 2, 3 and
    # 3, 3, 3, so medians 2, 2.5, 3. Trial 2 has best 1 < 2 after one and stops; trial 3 has best 2.2, not below 2,
    # then 2.4 < 2.5 and stops; trial 4 is always above.
    table = {0: [1, 3, 5], 1: [3, 3, 3], 2: [1], 3: [2.2, 2.4], 4: [4, 4, 4]}
    seen, record = played(MedianStopping(3, completed=2), lambda trial, age: table[trial][age - 1], 1, 5, 12)
    assert [one[0] for one in seen] == [0, 0, 0, 1, 1, 1, 2, 3, 3, 4, 4, 4]
    assert record["completed"].tolist() == [True, True, False, False, True]


def test_median_stopping_fills_every_free_member_from_the_queue():
    seen, _ = played(MedianStopping(1), lambda trial, age: trial, 2, 5, 4)
    assert seen == [[0, 1], [2, 3], [4, -1], [-1, -1]]


def test_pbt_replaces_the_worst_by_one_of_the_best_and_nobody_else():
    schedule = Pbt(share=0.25)
    decide = functools.partial(schedule.decide, schedule.start(8, 8), jnp.arange(8))
    scores = jnp.array([5.0, 1.0, 7.0, 2.0, jnp.nan, 3.0, 4.0, 6.0])
    sources = {member: set() for member in range(8)}
    for index in range(40):
        decision = decide(scores, jax.random.fold_in(KEY, index))
        for member, source in enumerate(decision.copied.tolist()):
            sources[member].add(source)
        assert decision.explores.tolist() == [member in (1, 4) for member in range(8)]
    assert sources[1] == sources[4] == {2, 7}
    assert all(sources[member] == {member} for member in (0, 2, 3, 5, 6, 7))


def test_pbt_ranks_equals_by_place_and_acts_in_its_turns_alone():
    schedule = Pbt(share=0.5, every=2)
    first = schedule.decide(schedule.start(2, 2), jnp.arange(2), jnp.array([1.0, 2.0]), KEY)
    second = schedule.decide(first.record, jnp.arange(2), jnp.array([1.0, 2.0]), KEY)
    assert first.copied.tolist() == [0, 1] and second.copied.tolist() == [1, 1]
    equal = schedule.decide(first.record, jnp.arange(2), jnp.ones(2), KEY)
    assert equal.copied.tolist() == [0, 0] and equal.explores.tolist() == [False, True]
    lost = schedule.decide(first.record, jnp.arange(2), jnp.full(2, jnp.nan), KEY)
    assert lost.copied.tolist() == [0, 1] and not lost.explores.any()


@pytest.mark.parametrize(
    "call",
    [
        lambda: Asha((3, 1)),
        lambda: Asha(eta=1),
        lambda: MedianStopping(0),
        lambda: Pbt(share=0.9),
        lambda: as_schedule("hyperbandit"),
        lambda: Pbt().start(2, 4),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(call):
    with pytest.raises(ValueError):
        call()
