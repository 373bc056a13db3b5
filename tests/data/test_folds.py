import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import model_selection

from ft_jax.data import folds, nested_folds

LABELS = np.random.default_rng(0).integers(0, 3, 40)
GROUPS = np.arange(40) // 2 % 13
SPLITTERS = {
    "plain": "KFold",
    "stratified": "StratifiedKFold",
    "grouped": "GroupKFold",
    "stratified-grouped": "StratifiedGroupKFold",
}


@pytest.mark.parametrize("kind", SPLITTERS)
def test_folds_are_scikit_learns(kind):
    labels = LABELS if kind.startswith("stratified") else None
    ours = folds(4, 40, kind=kind, labels=labels, groups=GROUPS, seed=7)
    splitter = getattr(model_selection, SPLITTERS[kind])(4, shuffle=True, random_state=7)
    for mine, theirs in zip(ours, splitter.split(np.zeros(40), labels, GROUPS), strict=True):
        np.testing.assert_array_equal(mine[0], theirs[0])
        np.testing.assert_array_equal(mine[1], theirs[1])


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(6, 50), st.integers(0, 99), st.booleans())
def test_every_example_is_held_out_once_and_no_group_is_torn(count, examples, seed, grouped):
    groups = np.arange(examples) // 2
    if grouped and len(set(groups)) < count:
        return
    found = folds(count, examples, kind="grouped" if grouped else "plain", groups=groups, seed=seed)
    assert sorted(np.concatenate([held for _, held in found])) == list(range(examples))
    for train, held in found:
        assert not set(train) & set(held) and len(train) + len(held) == examples
        assert not grouped or not set(groups[train]) & set(groups[held])


def test_stratified_folds_have_the_classes_in_equal_shares():
    labels = np.repeat([0, 1], [30, 10])
    for _, held in folds(5, 40, kind="stratified", labels=labels):
        assert np.bincount(labels[held]).tolist() == [6, 2]


def test_inner_folds_never_see_what_the_outer_one_holds_out():
    for (train, held), inside in nested_folds(3, 2, 40, kind="stratified", labels=LABELS, seed=1):
        assert sorted([*train, *held]) == list(range(40))
        for fit, judge in inside:
            assert not set(held) & {*fit, *judge} and sorted([*fit, *judge]) == sorted(train)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: folds(1, 10), "hold nothing out"),
        (lambda: folds(5, 4), "4 examples don't make 5 folds"),
        (lambda: folds(2, 4, kind="stratified"), "need labels"),
        (lambda: folds(2, 4, kind="grouped"), "need groups"),
        (lambda: folds(2, 4, kind="leaveout"), "no kind 'leaveout'"),
        (lambda: folds(3, 6, kind="stratified", labels=[0, 0, 0, 0, 1, 1]), "class 1 has 2 examples"),
        (lambda: folds(2, 4, kind="stratified", labels=[3, 3, 3, 3]), "all 4 labels are 3"),
        (lambda: folds(3, 6, kind="grouped", groups=[1, 1, 1, 2, 2, 2]), "2 groups don't make 3 folds"),
        (lambda: folds(2, 8, labels=[0, 0, 0, 0, 0, 0, 0, 1]), "no example of class 1"),
        (lambda: folds(2, 4, kind="stratified", labels=[0, 1]), "2 labels for 4 examples"),
    ],
)
def test_folds_that_cannot_be_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
