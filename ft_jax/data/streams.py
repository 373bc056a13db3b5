"""Streams of batches side by side, and batches on the devices ahead of their turn."""

import collections
import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import jax

from ft_jax.outside import printable


class Stream(Protocol):
    """An iterator of batches that can say and take its place, as `ft_jax.data.batches` gives."""

    def __iter__(self) -> Iterator[Mapping[str, Any]]: ...

    def __next__(self) -> Mapping[str, Any]: ...

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...


class SideBySide:
    """The main stream's batches, each with a batch of every other stream as a part of it."""

    def __init__(self, main: Stream, others: Mapping[str, Stream]):
        self._main, self._others = main, dict(others)
        self._starts = {name: stream.get_state() for name, stream in others.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        batch = next(self._main)
        return {**batch, **{name: self._part(name) for name in self._others}}

    def _part(self, name: str) -> Mapping[str, Any]:
        try:
            return next(self._others[name])
        except StopIteration:
            self._others[name].set_state(self._starts[name])
        try:
            return next(self._others[name])
        except StopIteration:
            raise ValueError(
                f"the stream {printable(name)} has no batches; give it data that fills at least one"
            ) from None

    def every_shape(self) -> list[dict[str, Any]]:
        """A batch of every combination of the streams' shapes; of streams that don't tell theirs the next batch."""
        shapes = {name: _shapes(stream) for name, stream in (("main", self._main), *self._others.items())}
        return [
            {**one[0], **dict(zip(self._others, one[1:], strict=True))} for one in itertools.product(*shapes.values())
        ]

    def get_state(self) -> dict[str, Any]:
        """The places of all streams."""
        return {"main": self._main.get_state(), **{name: one.get_state() for name, one in self._others.items()}}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from the places of all streams."""
        self._main.set_state(state["main"])
        for name, stream in self._others.items():
            stream.set_state(state[name])


def _shapes(stream: Stream) -> list[Mapping[str, Any]]:
    if hasattr(stream, "every_shape"):
        return stream.every_shape()
    with unmoved(stream):
        return [next(stream)]


@contextlib.contextmanager
def unmoved(stream: Any) -> Iterator[None]:
    """What is read of a stream inside is read again after it.

    Example:
      >>> from ft_jax.data import Dataset, batches
      >>> stream = batches(Dataset({"x": list(range(4))}), 2, shuffle=False)
      >>> with unmoved(stream):
      ...     first = next(stream)
      >>> bool((first["x"] == next(stream)["x"]).all())
      True
    """
    place = stream.get_state()
    yield
    stream.set_state(place)


def zip_streams(main: Stream, /, **others: Stream) -> SideBySide:
    """One stream of several, for losses that are minimised together: ``{**labelled, "unlabelled": {...}}``.

    Every stream has its own data, batch size and length. The zipped one ends when the main one does; another that
    ends sooner starts over.

    Args:
      main: whose fields stay at the batch's top.
      others: by the name of the part that their batches become.

    Raises:
      ValueError: a part would be called ``main``, which names the main stream's place in a saved state.

    Example:
      >>> import numpy as np
      >>> from ft_jax.data import Dataset, batches
      >>> labelled = batches(Dataset({"x": np.arange(4)}), 2, epochs=1, shuffle=False)
      >>> both = zip_streams(labelled, unlabelled=batches(Dataset({"x": np.arange(3)}), 3, epochs=1, shuffle=False))
      >>> [(batch["x"].tolist(), batch["unlabelled"]["x"].tolist()) for batch in both]
      [([0, 1], [0, 1, 2]), ([2, 3], [0, 1, 2])]
    """
    if "main" in others:
        raise ValueError("a part called 'main' would collide with the main stream's place; name it otherwise")
    return SideBySide(main, others)


class OnDevice:
    """Batches that are on their way to the devices before they are asked for.

    Its place is the one after the batch last handed out, whatever has been sent ahead.
    """

    def __init__(self, stream: Stream, size: int, sharding: jax.sharding.Sharding | None):
        self._stream, self._size, self._sharding = stream, size, sharding
        self._sent: collections.deque = collections.deque()
        self._place = stream.get_state()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        self._send(self._size)
        if not self._sent:
            raise StopIteration
        batch, self._place = self._sent.popleft()
        self._send(self._size)
        return batch

    def _send(self, upto: int) -> None:
        while len(self._sent) < upto:
            try:
                batch = next(self._stream)
            except StopIteration:
                return
            self._sent.append((put(batch, self._sharding), self._stream.get_state()))

    def get_state(self) -> Any:
        """The place after the batch last handed out."""
        return self._place

    def set_state(self, state: Any) -> None:
        """Go on from a place; what was sent ahead is dropped."""
        self._stream.set_state(state)
        self._sent.clear()
        self._place = state


def put(batch: Mapping[str, Any], sharding: jax.sharding.Sharding | None = None) -> dict[str, Any]:
    """A host batch on the devices; over several processes each gives its own rows of the whole."""
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(dict(batch), sharding)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), dict(batch))


def prefetch_to_device(stream: Stream, size: int = 2, sharding: jax.sharding.Sharding | None = None) -> OnDevice:
    """The stream's batches on the devices, up to ``size`` of them sent ahead while the devices compute.

    Args:
      stream: of host batches.
      size: how many batches are sent ahead, at least 1.
      sharding: of every field, along its first axis; None is the default device.

    Raises:
      ValueError: size is less than 1.

    Example:
      >>> import numpy as np
      >>> from ft_jax.data import Dataset, batches
      >>> stream = prefetch_to_device(batches(Dataset({"x": np.arange(4)}), 2, epochs=1, shuffle=False))
      >>> [batch["x"].sum().item() for batch in stream]
      [1, 5]
    """
    if size < 1:
        raise ValueError(f"size={size} sends nothing ahead; make it at least 1")
    return OnDevice(stream, size, sharding)
