"""Folds of cross-validation: scikit-learn's, with bad ones refused."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ft_jax.outside import printable

FoldKind = Literal["plain", "stratified", "grouped", "stratified-grouped"]
KINDS = ("plain", "stratified", "grouped", "stratified-grouped")

Fold = tuple[np.ndarray, np.ndarray]
"""Indices to train on and indices held out, both ascending."""


def folds(
    count: int,
    examples: int,
    *,
    kind: FoldKind = "plain",
    labels: Sequence | None = None,
    groups: Sequence | None = None,
    seed: int = 0,
) -> list[Fold]:
    """`count` folds: every example is held out in exactly one.

    They are scikit-learn's ``KFold``, ``StratifiedKFold``, ``GroupKFold`` and ``StratifiedGroupKFold``, shuffled
    by the seed. Stratified folds have the classes in equal shares; of a group no example is held out while
    another is trained on.

    Args:
      count: of folds.
      examples: how many there are.
      kind: ``"plain"``, ``"stratified"``, ``"grouped"`` or ``"stratified-grouped"``.
      labels: a class for each example, for stratified folds; where given, every fold must have every class.
      groups: what belongs together, a value for each example, for grouped folds.
      seed: of the shuffling.

    Raises:
      ValueError: fewer examples or groups than folds, labels or groups that are missing, a fold without a class, labels
        of one class alone.

    Example:
      >>> [held.tolist() for _, held in folds(3, 6, kind="stratified", labels=[0, 0, 0, 1, 1, 1])]
      [[2, 4], [1, 5], [0, 3]]
    """
    from sklearn import model_selection

    if kind not in KINDS:
        raise ValueError(f"there is no kind {printable(kind)} of folds; use one of {', '.join(KINDS)}")
    if count < 2:
        raise ValueError(f"{count} folds hold nothing out; use at least 2")
    if examples < count:
        raise ValueError(f"{examples} examples don't make {count} folds; use fewer folds, or more examples")
    for wanted, values, name in (("stratified", labels, "labels"), ("grouped", groups, "groups")):
        if wanted in kind and values is None:
            raise ValueError(f"{kind} folds need {name}, a value for each example; give them, or use kind='plain'")
        if values is not None and len(values) != examples:
            raise ValueError(f"there are {len(values)} {name} for {examples} examples; give one for each")
    if "grouped" in kind and len(set(_plain(groups))) < count:
        raise ValueError(
            f"{len(set(_plain(groups)))} groups don't make {count} folds, as a group stays whole; use fewer folds"
        )
    if kind == "stratified":
        rare, least = _rarest(labels)
        if least == examples:
            raise ValueError(
                f"all {examples} labels are {printable(rare)}, so every fold has one class; give examples of two "
                "classes at least; in Python kind='plain' takes no labels"
            )
        if least < count:
            raise ValueError(
                f"class {printable(rare)} has {least} examples and there are {count} folds, so that a fold would be "
                "without it; use fewer folds, or drop the class"
            )
    if kind == "grouped":
        splitter = model_selection.GroupKFold(count, shuffle=True, random_state=seed)
    else:
        named = {"plain": "KFold", "stratified": "StratifiedKFold", "stratified-grouped": "StratifiedGroupKFold"}
        splitter = getattr(model_selection, named[kind])(count, shuffle=True, random_state=seed)
    found = list(splitter.split(np.zeros(examples), labels, groups if "grouped" in kind else None))
    if labels is not None:
        _check_classes(found, np.asarray(labels))
    return found


def _plain(values) -> list:
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def _rarest(labels) -> tuple:
    names, counts = np.unique(np.asarray(labels), return_counts=True)
    at = int(np.argmin(counts))
    return names[at].item(), int(counts[at])


def _check_classes(found: Sequence[Fold], labels: np.ndarray) -> None:
    classes = np.unique(labels)
    for index, parts in enumerate(found):
        for part, where in zip(parts, ("trains on", "holds out"), strict=True):
            missing = np.setdiff1d(classes, labels[part])
            if missing.size:
                raise ValueError(
                    f"fold {index} {where} no example of class {printable(missing[0].item())}; use stratified folds, "
                    "or fewer"
                )


def nested_folds(outer: int, inner: int, examples: int, **chosen) -> list[tuple[Fold, list[Fold]]]:
    """Folds for choosing inside folds for judging: of each outer fold's training examples `inner` folds.

    What is chosen on the inner folds is judged on examples that the choice has never seen (Varma and Simon 2006).

    Args:
      outer, inner: how many.
      examples: how many there are.
      **chosen: as for `folds`; labels and groups are those of all examples.

    Returns:
      For each outer fold the fold and its inner ones; all indices are of the whole data.

    Example:
      >>> (train, held), inside = nested_folds(2, 2, 8)[0]
      >>> sorted([*train, *held]) == list(range(8)), sorted([*inside[0][1], *inside[1][1]]) == sorted(train)
      (True, True)
    """
    found = []
    for train, held in folds(outer, examples, **chosen):
        per_example = {
            name: np.asarray(chosen[name])[train] for name in ("labels", "groups") if chosen.get(name) is not None
        }
        inside = folds(inner, len(train), **{**chosen, **per_example})
        found.append(((train, held), [(train[fit], train[judge]) for fit, judge in inside]))
    return found
