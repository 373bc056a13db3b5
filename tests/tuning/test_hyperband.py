import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_jax.tuning import brackets, promoted, rungs


def test_hyperband_is_the_papers_formula_by_default_and_its_printed_table_when_asked():
    told = [[(rung.trials, rung.resource) for rung in bracket] for bracket in brackets(81, table=True)]
    assert told == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(27, 3), (9, 9), (3, 27), (1, 81)],
        [(9, 9), (3, 27), (1, 81)],
        [(6, 27), (2, 81)],
        [(5, 81)],
    ]
    assert [bracket[0].trials for bracket in brackets(81)] == [math.ceil(5 / (s + 1) * 3**s) for s in (4, 3, 2, 1, 0)]


@given(st.integers(1, 1000), st.integers(2, 5))
def test_every_bracket_ends_at_the_whole_resource_and_thins_by_eta(resource, eta):
    for bracket in brackets(resource, eta):
        assert bracket[-1].resource == resource and bracket[-1].trials >= 1
        for one, after in itertools.pairwise(bracket):
            assert after.trials <= one.trials / eta and one.resource < after.resource


@given(st.lists(st.floats(-5, 5), max_size=30), st.integers(2, 4))
def test_asha_never_promotes_more_than_a_share_nor_one_twice_and_takes_the_best(scores, eta):
    first = promoted(scores, [], eta)
    assert len(first) == len(scores) // eta and promoted(scores, first, eta) == []
    if first:
        assert min(scores[place] for place in first) >= max(
            [scores[place] for place in range(len(scores)) if place not in first], default=-math.inf
        )


def test_a_trial_without_a_score_is_never_promoted():
    assert promoted([math.nan, 0.1, math.nan], [], 3) == [1]


@pytest.mark.parametrize("call", [lambda: brackets(0), lambda: brackets(9, 1), lambda: rungs(5, 3)])
def test_what_cannot_be_is_refused(call):
    with pytest.raises(ValueError, match="can't be"):
        call()
