"""Labels: what kind they are, and one mapping of class names to ids for everything that a run reads."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ft_jax.data.columns import as_numbers
from ft_jax.data.dataset import Dataset
from ft_jax.outside import printable


def read_labels(
    values: Sequence, where: Callable[[int], str], sequences: bool = False
) -> tuple[Sequence, tuple[str, ...]]:
    """A column of labels as batches have it, and the names of its classes.

    | values | become |
    | --- | --- |
    | names, or true and false | int32 ids of the names in sorted order |
    | whole numbers | the same, as ids |
    | numbers of which one is a fraction | float64: a regression |
    | lists of names | float32 ``[classes]``, 1 for each name of the list: several labels an example |
    | lists of numbers of one length | an array ``[examples, numbers]``; float32 where all are 0 or 1 |

    Args:
      values: one for each example.
      where: names an example's place, such as ``"a.csv line 3"``.
      sequences: whether the examples are token sequences, whose lists of whole numbers are a label each token.

    Raises:
      ValueError: an example has no label, or an empty one; labels are of different kinds, differ in spaces alone,
        are whole numbers beyond 32 bits, or lists of numbers of different lengths.

    Example:
      >>> read_labels(["pos", "neg", "pos"], "row {}".format)
      (array([1, 0, 1], dtype=int32), ('neg', 'pos'))
    """
    for place, value in enumerate(values):
        if value is None or (isinstance(value, str) and not value.strip()) or _is_nan(value):
            said = "no label" if value is None or _is_nan(value) else f"the empty label {printable(value)}"
            raise ValueError(f"{where(place)} has {said} in column 'labels'; give it one or drop the row")
    kinds = {}
    for place, value in enumerate(values):
        kinds.setdefault(_kind(value), place)
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise ValueError(
            f"column 'labels' holds a {one} at {where(first)} and a {other} at {where(second)}; make them all one kind"
        )
    kind = next(iter(kinds))
    if kind == "name":
        return _ids(values, where)
    if kind == "truth value":
        return np.asarray(values, np.int32), ("false", "true")
    if kind == "number":
        numbers = np.asarray(values)
        _check_small(numbers, values, where)
        return (numbers.astype(np.int32) if numbers.dtype.kind in "iu" else numbers), ()
    if any(isinstance(item, str) for value in values for item in value):
        return _several(values, where)
    return _vectors(values, where, sequences), ()


def _check_small(numbers: np.ndarray, values: Sequence, where: Callable[[int], str]) -> None:
    """Refuses whole numbers that a batch's 32 bits would turn into others."""
    if numbers.dtype.kind == "f" or not len(numbers):
        return
    limits = np.iinfo(np.int32)
    wrong = next((at for at, value in enumerate(values) if not limits.min <= int(value) <= limits.max), None)
    if wrong is not None:
        raise ValueError(
            f"{where(wrong)} has the label {int(values[wrong])}, a whole number of more than 32 bits; write it with a "
            "decimal point to predict it, or as a name such as 'id_7' for a class"
        )


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "name"
    if isinstance(value, bool | np.bool_):
        return "truth value"
    if isinstance(value, int | float | np.number):
        return "number"
    if isinstance(value, list | tuple | np.ndarray):
        return "list"
    return type(value).__name__


def _ids(values: Sequence[str], where: Callable[[int], str]) -> tuple[np.ndarray, tuple[str, ...]]:
    classes = _sorted_names(((name, place) for place, name in enumerate(values)), where)
    ids = {name: place for place, name in enumerate(classes)}
    return np.array([ids[name] for name in values], np.int32), classes


def _several(values: Sequence[Sequence[str]], where: Callable[[int], str]) -> tuple[np.ndarray, tuple[str, ...]]:
    for place, names in enumerate(values):
        for name in names:
            if not isinstance(name, str) or not name.strip():
                raise ValueError(
                    f"{where(place)} has {printable(name)} among its labels' names; correct it or drop the row"
                )
    classes = _sorted_names(((name, place) for place, names in enumerate(values) for name in names), where)
    return np.array([[name in names for name in classes] for names in values], np.float32), classes


def _sorted_names(named, where: Callable[[int], str]) -> tuple[str, ...]:
    first: dict[str, int] = {}
    for name, place in named:
        first.setdefault(name, place)
    plain: dict[str, str] = {}
    for name, place in first.items():
        other = plain.setdefault(" ".join(name.split()), name)
        if other != name:
            raise ValueError(
                f"the labels {printable(other)} ({where(first[other])}) and {printable(name)} ({where(place)}) differ "
                "in spaces alone; write them alike"
            )
    return tuple(sorted(first))


def _vectors(values: Sequence[Sequence], where: Callable[[int], str], sequences: bool) -> Sequence:
    sizes = {}
    for place, value in enumerate(values):
        sizes.setdefault(np.shape(value), place)
    made = as_numbers(values)
    if sequences:
        return made
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise ValueError(
            f"the labels at {where(first)} are numbers of shape {one} and those at {where(second)} of shape {other}; "
            "write 0 or 1 for every class, or lists of names"
        )
    return made.astype(np.float32) if np.isin(made, (0, 1)).all() else made


def one_mapping(
    datasets: Mapping[str, Dataset], classes: Sequence[str] = (), outputs: int | None = None
) -> dict[str, Dataset]:
    """The same data sets with one numbering of their classes: each name has one id in all of them.

    Args:
      datasets: by what an error may call them; those with ``labels`` are looked at.
      classes: names in the order of their ids, such as a model's; by default one set's where it has the names of all,
        else all names sorted.
      outputs: of the model's head; None where there is none.

    Raises:
      ValueError: one set names its classes and another has numbers; a name is not among ``classes``; or there are
        more names than outputs.

    Example:
      >>> three = Dataset({"labels": np.array([2, 0, 1])}, ("neg", "neu", "pos"))
      >>> two = Dataset({"labels": np.array([1, 0])}, ("neu", "pos"))
      >>> one_mapping({"three": three, "two": two})["two"].columns["labels"]
      array([2, 1], dtype=int32)
    """
    named = {name: one for name, one in datasets.items() if "labels" in one.columns and one.classes}
    plain = [name for name, one in datasets.items() if "labels" in one.columns and not one.classes]
    if not named:
        return dict(datasets)
    if plain:
        first = next(iter(named))
        raise ValueError(
            f"the labels of {first} are named {_listed(named[first].classes)} and those of {plain[0]} are numbers; "
            "write names in both, or numbers in both"
        )
    several = {name: np.ndim(one.column("labels")[0]) > 0 for name, one in named.items() if len(one)}
    if len(set(several.values())) > 1:
        one, other = (next(name for name, many in several.items() if many is kind) for kind in (True, False))
        raise ValueError(
            f"an example of {one} has several classes and one of {other} a single class; write lists of names in both, "
            "or one name in both"
        )
    for name, one in named.items():
        unknown = [label for label in one.classes if classes and label not in classes]
        if unknown:
            raise ValueError(
                f"{name} has the classes {_listed(one.classes)} and the model has {_listed(classes)}; rename "
                f"{printable(unknown[0])} in the data, or give the model a new head"
            )
    everything = set().union(*(one.classes for one in named.values()))
    whole = (one.classes for one in named.values() if set(one.classes) == everything)
    known = tuple(classes) or next(whole, None) or tuple(sorted(everything))
    if outputs is not None and len(known) > outputs:
        apart = {one.classes: name for name, one in reversed(named.items())}
        said = " and ".join(f"{name} has {_listed(own)}" for own, name in list(reversed(apart.items()))[:2])
        raise ValueError(
            f"the data has {len(known)} classes and the model's head {outputs} outputs: {said}; give the model "
            f"{len(known)} classes, or make the names agree"
        )
    return {name: _renumbered(one, known) if name in named else one for name, one in datasets.items()}


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown}, … ({len(names)})" if len(names) > 8 else shown


def _renumbered(dataset: Dataset, known: tuple[str, ...]) -> Dataset:
    if dataset.classes == known:
        return dataset
    places = np.array([known.index(name) for name in dataset.classes])
    labels = dataset.column("labels")
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        moved: Sequence = np.where(labels >= 0, places[np.maximum(labels, 0)], labels).astype(np.int32)
    elif isinstance(labels, np.ndarray) and labels.ndim == 2 and labels.dtype.kind == "f":
        moved = np.zeros((len(labels), len(known)), labels.dtype)
        moved[:, places] = labels
    else:
        moved = dataset.map(lambda example: {"labels": places[example["labels"]]}).columns["labels"]
    return dataclasses.replace(dataset.with_columns(labels=moved), classes=known)
