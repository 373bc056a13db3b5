"""Several sources of data as one: in fixed shares, or as a method of the run draws them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax.adaptive.data_mixing import CHANCE, SOURCE
from ft_jax.data.collate import of_one_length
from ft_jax.data.streams import unmoved
from ft_jax.outside import listed, printable
from ft_jax.training.on_policy import OnPolicy
from ft_jax.training.stream import Feed, Stream, Task

Batch = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Batches of several sources, each batch of one, or all of them together.

    A batch's fields ``source [batch]`` and ``chance [batch]`` say which source it is of, and how likely that was; rows
    that stand together have a ``source`` each and no chance.

    Attributes:
      sources: data specs of one task each, of equal fields and classes; shorter rows of tokens are filled up.
      shares: of the batches for each source, of any size; None draws by how many examples each has.
      by: the name of a method of the run that draws, such as ``"adaptive.data_mixing"``, in place of `shares`: its
        memory has the ``chances`` of the sources.
      ahead: with `by`, whether the next batch is drawn while the last update is computed, see
        `ft_jax.training.OnPolicy`.
      together: every batch has as many rows of each source, the first one's first, for `ft_jax.ensemble.own_task`.

    Example:
      >>> from ft_jax.training import Experiment, Use
      >>> from ft_jax.training.own_data import Labelled
      >>> data = Mixture((Labelled("films.csv"), Labelled("phones.csv")), by="adaptive.data_mixing")
      >>> method = (Use("adaptive.data_mixing", sources=2), Use("transfer.lora"))
    """

    sources: tuple[Any, ...]
    shares: tuple[float, ...] | None = None
    by: str | None = None
    ahead: bool = False
    together: bool = False

    def check(self) -> None:
        """Raises ValueError on what can be seen to be wrong without the data."""
        if not self.sources:
            raise ValueError("data.sources is empty; give at least one data spec")
        for source in self.sources:
            if hasattr(source, "check"):
                source.check()
        if self.by is not None and self.shares is not None:
            raise ValueError(f"data.shares and data.by both say how sources are drawn; leave shares to {self.by}")
        if self.together and (self.by is not None or self.shares is not None):
            raise ValueError("data.together takes as many rows of each source; leave data.shares and data.by out")
        wrong = self.shares is not None and (
            len(self.shares) != len(self.sources) or not all(np.isfinite(self.shares)) or not min(self.shares) > 0
        )
        if wrong:
            raise ValueError(
                f"data.shares is {self.shares} for {len(self.sources)} sources; give a positive number for each"
            )

    def outputs(self) -> int:
        """How many classes the data has."""
        return max(source.outputs() for source in self.sources)

    def build(self, model: Any, feed: Feed) -> Stream:
        """One task."""
        count = len(self.sources)
        if self.together and feed.batch_size % count:
            raise ValueError(
                f"a batch of {feed.batch_size} rows can't have as many of {count} sources; give a multiple of {count}"
            )
        feed = dataclasses.replace(feed, batch_size=feed.batch_size // count) if self.together else feed
        tasks = [_only(source.build(model, feed), place) for place, source in enumerate(self.sources)]
        classes = {task.classes for task in tasks}
        if len(classes) > 1:
            raise ValueError(
                f"the sources have different classes, {' and '.join(map(str, sorted(classes)))}, so one number would "
                "mean two things; give all of them the same names"
            )
        sizes = [task.examples for task in tasks]
        if self.by is None and self.shares is None and not self.together and None in sizes:
            raise ValueError("a source does not know how many examples it has; give data.shares")
        drawn_here = self.by is None and not self.together
        shares = np.asarray(sizes if self.shares is None else self.shares, np.float64) if drawn_here else None
        drawn = Drawn([task.train for task in tasks], feed.seed, shares, getattr(model, "pad_token", 0))
        train = Together(drawn) if self.together else drawn if self.by is None else self._asking(drawn, feed)
        sets: dict[str, Any] = {}
        for task in tasks:
            for name, batches in task.evaluations.items():
                sets[name if name not in sets else f"{task.name}/{name}"] = batches
        known = None if None in sizes else sum(sizes)
        columns = {name: what for task in tasks for name, what in task.columns.items()}
        return (Task("mixture", train, sets, known, classes=tasks[0].classes, columns=columns),)

    def _asking(self, drawn: "Drawn", feed: Feed) -> OnPolicy:
        count = len(self.sources)

        def act(params, batch, context):
            own = context.memory.get(self.by)
            if not isinstance(own, Mapping) or "chances" not in own:
                raise KeyError(
                    f"data.by is {printable(self.by)}, and the run's methods with a memory are "
                    f"{listed(context.memory)}; add Use('adaptive.data_mixing', sources={count})"
                )
            if own["chances"].shape != (count,):
                raise ValueError(
                    f"{self.by} draws from {own['chances'].shape[0]} sources and the data has {count}; give it "
                    f"sources={count}"
                )
            return jnp.broadcast_to(own["chances"], (batch["asked"].shape[0], count))

        question = {"asked": np.zeros((feed.batch_size, 1), np.float32)}

        def make(ask, given):
            return drawn.draw(np.asarray(ask(question), np.float64)[0])

        return OnPolicy(Turns(drawn), act, make, like=drawn.like, asks=question, ahead=self.ahead)


def _only(stream: Any, place: int) -> Task:
    if not isinstance(stream, tuple | list) or len(stream) != 1 or stream[0].on_policy or stream[0].ends:
        raise ValueError(f"source {place} of a Mixture is no single task of batches without end; give a plain spec")
    return stream[0]


class Drawn:
    """A source that draws each batch from one of several.

    Attributes:
      like: a batch, in shape and type.

    Args:
      sources: of batches with equal fields.
      seed: of the draws; all processes of a run draw alike.
      shares: of the sources; None where they are given at each draw.
      padding: id of the padding token.
    """

    def __init__(self, sources: Sequence[Any], seed: int, shares: np.ndarray | None, padding: int):
        self._sources, self._seed, self._padding, self._count = sources, seed, padding, 0
        self._chances = None if shares is None else shares / shares.sum()
        firsts = [_first(source) for source in sources]
        fields = sorted({tuple(sorted(first)) for first in firsts})
        if len(fields) > 1:
            raise ValueError(
                f"the sources' batches have different fields, {' and '.join(map(listed, fields))}; mix data of one kind"
            )
        # Rows of every source are as long as the longest source's.
        self._longest = of_one_length(firsts, padding)[0]
        self.like = self._told(firsts[0], 0, 1.0)

    def __iter__(self):
        return self

    def __next__(self) -> Batch:
        return self.draw(self._chances)

    def draw(self, chances: np.ndarray) -> Batch:
        """The next batch, of a source drawn by these chances."""
        random = np.random.default_rng([self._seed, self._count])
        source = int(random.choice(len(chances), p=chances / chances.sum()))
        self._count += 1
        return self._told(next(self._sources[source]), source, float(chances[source]))

    def all_sources(self) -> Batch:
        """The next batch of every source, one after the other."""
        batches = [self._told(next(source), place, 1.0) for place, source in enumerate(self._sources)]
        parts = jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)
        return {name: part for name, part in parts.items() if name != CHANCE}

    def get_state(self) -> dict[str, Any]:
        """Where it stands."""
        return {"drawn": self._count, "sources": [source.get_state() for source in self._sources]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Stands there."""
        self._count = state["drawn"]
        for source, own in zip(self._sources, state["sources"], strict=True):
            source.set_state(own)

    def _told(self, batch: Batch, source: int, chance: float) -> Batch:
        batch = of_one_length([batch, self._longest], self._padding)[0]
        rows = len(next(iter(batch.values())))
        return {**batch, SOURCE: np.full(rows, source, np.int32), CHANCE: np.full(rows, chance, np.float32)}


class Together:
    """Rows of all sources in every batch, as many of each, whose place is that of `Drawn`."""

    def __init__(self, drawn: Drawn):
        self._drawn = drawn

    def __next__(self) -> Batch:
        return self._drawn.all_sources()

    def get_state(self) -> Any:
        """Where `Drawn` stands."""
        return self._drawn.get_state()

    def set_state(self, state: Any) -> None:
        """Stands there."""
        self._drawn.set_state(state)


class Turns:
    """Turns without end, whose place is that of what is drawn in them."""

    def __init__(self, drawn: Drawn):
        self._drawn = drawn

    def __next__(self) -> Batch:
        return {}

    def get_state(self) -> Any:
        """Where `Drawn` stands."""
        return self._drawn.get_state()

    def set_state(self, state: Any) -> None:
        """Stands there."""
        self._drawn.set_state(state)


def _first(source: Any) -> Batch:
    with unmoved(source):
        return next(source)
