import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_jax.tuning.search import Choice, Uniform, Whole, grid, parse_space
from ft_jax.tuning.search.spaces import encode, start


@given(st.floats(0, 1), st.floats(1e-6, 1), st.floats(1.5, 1e4), st.booleans())
def test_a_share_of_a_range_and_back(share, low, times, log):
    axis = Uniform(low, low * times, log=log)
    assert low <= axis.at(share) <= low * times
    assert axis.share(axis.at(share)) == pytest.approx(share, abs=1e-6)


@given(st.integers(-5, 5), st.integers(1, 40), st.integers(1, 12))
def test_a_grid_of_whole_numbers_has_each_once_and_both_ends(low, size, points):
    values = Whole(low, low + size).grid(points)
    assert len(set(values)) == len(values) <= points and values[0] == low
    assert points == 1 or values[-1] == low + size


def test_a_grid_has_every_combination_once():
    space = {"a": Choice((1, "x", None)), "b": Uniform(0.0, 1.0)}
    cells = grid(space, points=4)
    assert len(cells) == 12 == len({tuple(cell.items()) for cell in cells})


@pytest.mark.parametrize(
    "word, message",
    [
        ("rate", "write PATH=LOW..HIGH"),
        ("rate=1..1", "rate: the range 1..1 has no inside"),
        ("rate=2..1", "has no inside"),
        ("rate=0..1:log", "can't be logarithmic"),
        ("rate=a..b", "is no range"),
        ("rate=1..2:cubic", "is no range"),
        ("rate=1,1", "each once"),
        ("rate=1,,2", "is no space"),
        ("rate=1..2~3", "the prior 3 is outside"),
        ("rate=1,2~3", "the prior 3 is none of"),
        ("rate=nan..2", "is no range"),
        ("rate=0.0..1e999", "has no inside"),
    ],
)
def test_a_bad_range_is_refused_by_its_path(word, message):
    with pytest.raises(ValueError, match="rate") as told:
        parse_space([word])
    assert message in str(told.value)


def test_a_path_is_named_once():
    with pytest.raises(ValueError, match="twice"):
        parse_space(["a=1,2", "a=3,4"])


def test_a_search_with_priors_starts_at_them_and_stays_around():
    space = parse_space(["rate=1e-5..1e-1:log~1e-3", "kind=a,b,c~b", "free=0.0..1.0"])
    points = start(space, 400, seed=3)
    assert points[0]["rate"] == 1e-3 and points[0]["kind"] == "b"
    shares = [space["rate"].share(point["rate"]) for point in points]
    assert sum(abs(share - 0.5) < 0.15 for share in shares) == pytest.approx(0.683 * 400, abs=35)
    assert sum(point["kind"] == "b" for point in points) == pytest.approx((0.5 + 0.5 / 3) * 400, abs=40)
    assert len(encode(space, points[0])) == 1 + 3 + 1
