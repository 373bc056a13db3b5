"""A live source: lines that are written to a file, to the files of a folder, or to standard input, as they come."""

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

LOOK = 0.05
"""Seconds between two looks at whether something was written."""

MOST = 2**24
"""Bytes of a line, after which it is taken as damaged: a line without an end would fill the memory."""


class Line(NamedTuple):
    """A whole line, and the place right after it."""

    text: str
    place: Any


def follow(
    path: str | os.PathLike,
    place: Any = None,
    *,
    stop: Callable[[], bool] = lambda: False,
    end: bool = False,
    look: float = LOOK,
) -> Iterator[Line]:
    """The lines of a source that grows, in the order in which they come, until told to stop.

    A line counts once its end has been written. The files of a folder follow one another by name, and those whose names
    begin with a dot are left out; a file is done when there is one after it.

    Args:
      path: a file, a folder, or ``"-"`` for standard input, which ends when its writer closes it.
      place: of the last line that was dealt with, to go on after it; None for the beginning. JSON.
      stop: whether to stop, asked while nothing new is there.
      end: stop where everything that is there has been read.
      look: seconds between two looks.

    Yields:
      `Line`: without its end; bytes that are no UTF-8 are lone surrogates, which `json.loads` takes and no tokenizer.

    Raises:
      FileNotFoundError: there is no such file or folder.
      ValueError: a line of more than `MOST` bytes, a file that is shorter than the place in it.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = Path(folder, "a.jsonl").write_text("one\\ntwo\\nthr")
      ...     lines = list(follow(folder, end=True))
      >>> [line.text for line in lines], lines[0].place
      (['one', 'two'], {'file': 'a.jsonl', 'offset': 4})
    """
    if str(path) == "-":
        yield from _standard_input(place, stop)
        return
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path} to follow; give one that exists, or - for input")
    at = place
    while True:
        for line in _written(path, at):
            at = line.place
            yield line
        if end or stop():
            return
        time.sleep(look)


def _written(path: Path, place: Any) -> Iterator[Line]:
    """The whole lines that are there after a place."""
    if not path.is_dir():
        yield from _lines(path, 0 if place is None else place["offset"], lambda offset: {"offset": offset})
        return
    for file in sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith(".")):
        if place is not None and file.name < place["file"]:
            continue
        start = place["offset"] if place is not None and file.name == place["file"] else 0
        yield from _lines(file, start, lambda offset, name=file.name: {"file": name, "offset": offset})


def _lines(file: Path, start: int, named: Callable[[int], Any]) -> Iterator[Line]:
    if file.stat().st_size < start:
        raise ValueError(
            f"{file} has {file.stat().st_size} bytes and was read up to byte {start}; was it written anew? "
            "Start anew too"
        )
    with open(file, "rb") as opened:
        opened.seek(start)
        offset = start
        while line := opened.readline(MOST + 1):
            if len(line) > MOST:
                raise ValueError(f"{file} has a line of more than {MOST} bytes at byte {offset}; cut it into lines")
            if not line.endswith(b"\n"):
                return  # still being written
            offset += len(line)
            yield Line(line.decode("utf-8", errors="surrogateescape").rstrip("\r\n"), named(offset))


def _standard_input(place: Any, stop: Callable[[], bool]) -> Iterator[Line]:
    count, rest, handle = 0 if place is None else place["lines"], b"", sys.stdin.fileno()
    while not stop():
        # Python waits for input through signals, so a stop would not be seen before the next line.
        if not select.select([handle], [], [], LOOK)[0]:
            continue
        read = os.read(handle, 2**16)
        *lines, rest = (rest + read).split(b"\n")
        if len(rest) > MOST:
            raise ValueError(f"standard input has a line of more than {MOST} bytes; cut it into lines")
        for line in [*lines, rest] if not read and rest else lines:
            count += 1
            yield Line(line.decode("utf-8", errors="surrogateescape").rstrip("\r"), {"lines": count})
        if not read:
            return
