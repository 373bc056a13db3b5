"""Every method by name, with what it needs and how to build one small enough to test its laws."""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ft_jax.core.arguments import checked
from ft_jax.core.method import Composition, Method
from ft_jax.core.params import Params, nearest
from ft_jax.core.state import Batch

FAMILIES = (
    "incremental",
    "transfer",
    "distillation",
    "meta",
    "multimodal",
    "rl",
    "tuning",
    "attention",
    "ensemble",
    "adaptive",
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A tiny training problem on which any method of the catalogue can be built and run.

    Attributes:
      apply: ``(params, batch, key) -> Outputs`` of a two-layer language model.
      params: its parameters.
      batch: ``input_ids``, ``labels`` and ``weights``, each ``[8, time]``, in the layout of the methods named after.
      key: for building.
      whole: the batch in the layout of the whole composition.
    """

    apply: Callable
    params: Params
    batch: Batch
    key: jax.Array
    whole: Batch


@dataclasses.dataclass(frozen=True)
class Neutral:
    """Numbers at which a method trains exactly like the step without it.

    Attributes:
      hyper: the numbers, such as ``{"weight": 0.0}``.
      like: the composition it then equals; nothing at all by default.
      batch: from the method's batch to the one the plain step sees; the same by default.
    """

    hyper: Mapping[str, float]
    like: Callable[[Problem], Method | Composition] | None = None
    batch: Callable[[Batch], Batch] | None = None


@dataclasses.dataclass(frozen=True)
class Entry:
    """A method's line in the catalogue.

    Attributes:
      family, name: ``"transfer"`` and ``"transfer.lora"``.
      paper: authors, year, arXiv id or venue.
      build: its constructor; the docstring is the method's documentation.
      example: builds one for a `Problem`.
      needs: the batch fields it reads, in words of the data conventions.
      batch: the problem's batch to the one the example trains on.
      neutral: where it does nothing, or the reason why there is no such place, in a sentence.
      pretrained: right after surgery the outputs equal the base's, as its paper says.
      mergeable: its operators can be merged into dense weights; False for modules that no matrix equals.
    """

    family: str
    name: str
    paper: str
    build: Callable[..., Method]
    example: Callable[[Problem], Method]
    needs: tuple[str, ...] = ()
    batch: Callable[[Batch], Batch] | None = None
    neutral: Neutral | str = ""
    pretrained: bool = True
    mergeable: bool = True

    @property
    def summary(self) -> str:
        """The first line of the documentation."""
        return inspect.getdoc(self.build).splitlines()[0]

    def describe(self) -> dict[str, Any]:
        """What ``ft-jax methods --json`` prints."""
        return {
            "family": self.family,
            "name": self.name,
            "paper": self.paper,
            "needs": list(self.needs),
            "summary": self.summary,
        }


class Catalogue(Mapping[str, Entry]):
    """The registered methods, by full name: whole whenever it is read, for reading it imports the families."""

    def __init__(self):
        self._entries: dict[str, Entry] = {}

    def __getitem__(self, name: str) -> Entry:
        family = name.partition(".")[0]
        if name not in self._entries and family in FAMILIES:
            importlib.import_module(f"ft_jax.{family}")
        if name not in self._entries:
            load_families()
            raise KeyError(f"no method is called {name!r}; the nearest are {nearest(name, self._entries)}")
        return self._entries[name]

    def __iter__(self):
        load_families()
        return iter(sorted(self._entries, key=lambda name: (FAMILIES.index(name.partition(".")[0]), name)))

    def __len__(self):
        load_families()
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        """Registers `entry`; a name can be taken once."""
        if entry.family not in FAMILIES:
            raise ValueError(f"family {entry.family!r} of {entry.name} is unknown; use one of {', '.join(FAMILIES)}")
        if entry.name in self._entries:
            raise ValueError(f"{entry.name} is in the catalogue already; choose another name")
        self._entries[entry.name] = entry


catalogue = Catalogue()


def load_families() -> None:
    """Imports every family, which registers its methods and its formats of files."""
    for family in FAMILIES:
        importlib.import_module(f"ft_jax.{family}")


def register(
    family: str,
    *,
    paper: str,
    example: Callable[[Problem], Method],
    neutral: Neutral | str,
    needs: tuple[str, ...] = (),
    batch: Callable[[Batch], Batch] | None = None,
    pretrained: bool = True,
    mergeable: bool = True,
    name: str | None = None,
) -> Callable[[Callable[..., Method]], Callable[..., Method]]:
    """Decorator that puts a method's constructor in the catalogue as ``family.name``; see `Entry`.

    The constructor then refuses values that its annotations rule out, see `ft_jax.core.arguments.checked`.
    """

    def decorate(build):
        full = f"{family}.{name or build.__name__}"
        build = checked(full, build)
        catalogue.add(Entry(family, full, paper, build, example, needs, batch, neutral, pretrained, mergeable))
        return build

    return decorate
