"""A data set as experiences that arrive one after another: by class, by the value of a column, by time."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from ft_jax.data.checks import check_columns, check_not_empty
from ft_jax.data.dataset import Dataset
from ft_jax.outside import printable


def by_class(dataset: Dataset, groups: Sequence[Sequence[int | str]] | int) -> dict[str, Dataset]:
    """Class-incremental experiences: each has the examples of some classes.

    Args:
      dataset: with class ids in ``labels``.
      groups: the classes of each experience by id or name, or how many experiences the classes are dealt out to, in
        their order and as evenly as they go.

    Raises:
      ValueError: a class in two groups, one without examples, one that the data set does not name, more experiences
        than classes.

    Example:
      >>> parts = by_class(Dataset({"x": np.arange(4), "labels": np.array([0, 2, 1, 0])}), ((0, 1), (2,)))
      >>> {name: part.columns["x"].tolist() for name, part in parts.items()}
      {'0-1': [0, 2, 3], '2': [1]}
    """
    labels = np.asarray(check_columns(check_not_empty(dataset), ["labels"]).columns["labels"])
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels {labels.dtype}{list(labels.shape)} are no class ids, so they make no experiences")
    present = sorted(set(labels.tolist()))
    if isinstance(groups, int):
        if not 1 <= groups <= len(present):
            raise ValueError(f"{len(present)} classes can't be dealt out to {groups} experiences; give 1 to that many")
        groups = [part.tolist() for part in np.array_split(present, groups)]
    ids = [[_id(one, dataset.classes) for one in group] for group in groups]
    taken: set[int] = set()
    for group in ids:
        for one in group:
            if one in taken:
                raise ValueError(f"class {one} is in two experiences; give each class one")
            if one not in present:
                raise ValueError(f"class {one} of an experience has no example in the data; leave it out")
            taken.add(one)
    names = ["-".join(dataset.classes[one] if dataset.classes else str(one) for one in group) for group in ids]
    return {name: dataset.take(np.flatnonzero(np.isin(labels, group))) for name, group in zip(names, ids, strict=True)}


def _id(one: int | str, classes: Sequence[str]) -> int:
    if isinstance(one, str):
        if one not in classes:
            raise ValueError(f"no class is called {printable(one)}; the data names {', '.join(classes) or 'none'}")
        return classes.index(one)
    return int(one)


def by_value(dataset: Dataset, column: str) -> dict[str, Dataset]:
    """Domain- or task-incremental experiences: each has the examples with one value of a column, as they first occur.

    Raises:
      KeyError: there is no such column.
      ValueError: an example without a value.

    Example:
      >>> parts = by_value(Dataset({"x": np.arange(3), "domain": ["films", "shops", "films"]}), "domain")
      >>> {name: len(part) for name, part in parts.items()}
      {'films': 2, 'shops': 1}
    """
    values = check_columns(check_not_empty(dataset), [column]).columns[column]
    places: dict[str, list[int]] = {}
    for place in range(len(dataset)):
        value = values[place]
        if value is None or value != value or not str(value).strip():
            raise ValueError(
                f"example {place} has no value in column {printable(column)}; give it one or drop the example"
            )
        places.setdefault(str(value), []).append(place)
    return {value: dataset.take(found) for value, found in places.items()}


def by_time(dataset: Dataset, column: str, edges: Sequence[float] | int) -> dict[str, Dataset]:
    """Experiences by time: the examples in the order of a column, cut at `edges`; equal times stay in their order.

    Args:
      dataset: with numbers, or dates that sort as they stand, in the column.
      column: its name.
      edges: where an experience ends and the next begins (with the edge), or how many experiences of about equally
        many examples there are; examples of one time are not cut apart.

    Raises:
      KeyError: there is no such column.
      ValueError: an experience would have no example, or an example no time.

    Example:
      >>> parts = by_time(Dataset({"x": np.arange(4), "year": np.array([3, 1, 2, 1])}), "year", [2])
      >>> {name: part.columns["x"].tolist() for name, part in parts.items()}
      {'year to 2': [1, 3], 'year from 2': [2, 0]}
    """
    times = np.asarray(check_columns(check_not_empty(dataset), [column]).columns[column])
    lacks = [place for place, time in enumerate(times.tolist()) if time is None or time != time or time == ""]
    if lacks:
        raise ValueError(
            f"example {lacks[0]} has no time in column {printable(column)}; give it one or drop the example"
        )
    order = np.argsort(times, kind="stable")
    if isinstance(edges, int):
        edges = time_edges(times, edges, column)
    cuts = [int(np.searchsorted(times[order], edge, side="left")) for edge in edges]
    parts = np.split(order, cuts)
    named = [str(edge) for edge in edges]
    names = [f"{column} to {named[0]}", *(f"{column} {a} to {b}" for a, b in itertools.pairwise(named))]
    names = [*names, f"{column} from {named[-1]}"] if named else [f"all {column}s"]
    for name, part in zip(names, parts, strict=True):
        if not len(part):
            raise ValueError(f"the experience {printable(name)} has no example; give edges that leave it some")
    return {name: dataset.take(part) for name, part in zip(names, parts, strict=True)}


def time_edges(times: Sequence, count: int, column: str = "time") -> list:
    """Times at which about equally many examples' experiences begin.

    Raises:
      ValueError: fewer different times than experiences.

    Example:
      >>> time_edges(np.array([1, 2, 3, 4]), 2)
      [3]
    """
    ordered = np.sort(np.asarray(times))
    if not 1 <= count <= len(np.unique(ordered)):
        raise ValueError(f"{count} experiences need as many different values of {printable(column)}; give fewer")
    edges = [ordered[len(ordered) * at // count] for at in range(1, count)]
    if len(np.unique(edges)) < len(edges) or (edges and edges[0] == ordered[0]):
        raise ValueError(
            f"column {printable(column)} repeats a value too often for {count} equal experiences; give the edges"
        )
    return [edge.item() for edge in edges]


@dataclasses.dataclass(frozen=True)
class Arrivals:
    """Experiences whose classes are numbered in the order in which they come.

    Attributes:
      parts: the examples by experience and split, with ids that a head which grows has from that experience on.
      classes: after each experience the names of the classes that have come, by its name.
    """

    parts: Mapping[str, Mapping[str, Dataset]]
    classes: Mapping[str, tuple[str, ...]]


def in_order_of_arrival(parts: Mapping[str, Mapping[str, Dataset]], split: str = "train") -> Arrivals:
    """Numbers the classes of experiences by when the first example of each comes; those of one by their ids.

    Args:
      parts: the examples by experience and split, with class ids in ``labels``.
      split: whose examples are trained on.

    Raises:
      ValueError: another split has a class of which no example has come by then.

    Example:
      >>> late = {"train": Dataset({"labels": np.array([0, 2])})}
      >>> found = in_order_of_arrival({"first": {"train": Dataset({"labels": np.array([2, 1])})}, "second": late})
      >>> found.parts["second"]["train"].column("labels").tolist(), found.classes["second"]
      ([2, 1], ('1', '2', '0'))
    """
    order: list[int] = []
    numbered: dict[str, dict[str, Dataset]] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for name, splits in parts.items():
        order += sorted(set(np.asarray(splits[split].column("labels")).tolist()).difference(order))
        own = splits[split].classes
        classes[name] = tuple(own[one] if own else str(one) for one in order)
        places = {one: place for place, one in enumerate(order)}
        numbered[name] = {}
        for which, examples in splits.items():
            labels = np.asarray(examples.column("labels")).tolist()
            unknown = next((one for one in labels if one not in places), None)
            if unknown is not None:
                called = printable(own[unknown] if own else unknown)
                raise ValueError(
                    f"the split {printable(which)} of the experience {printable(name)} asks for the class {called}, of "
                    "which no example has come to train on; leave it out, or let it come earlier"
                )
            ids = np.asarray([places[one] for one in labels], np.int32)
            numbered[name][which] = dataclasses.replace(examples.with_columns(labels=ids), classes=classes[name])
    return Arrivals(numbered, classes)
