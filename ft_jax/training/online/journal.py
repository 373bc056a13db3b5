"""What was learned since the last checkpoint, line by line, on disk before it is learned."""

import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ft_jax.outside import one_line, parse_json
from ft_jax.training.seal import Damaged, seal, unseal

ENDING = ".jsonl"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line that was dealt with.

    Attributes:
      number: how many lines had been, this one with them.
      place: right after it in its source.
      learned: how many had been learned from, this one with them.
      inputs, label: of the example; None of a line that nothing is learned from.
      right: whether the answer to it, before it was learned, was its label.
    """

    number: int
    place: Any
    learned: int
    inputs: Mapping[str, Any] | None = None
    label: int | None = None
    right: bool | None = None


class Journal:
    """Entries in files of a folder, each of which begins at a checkpoint.

    An entry is one write to the end of a file, so a process that is killed leaves whole lines and at most one that was
    cut off, whose line was not learned; it is dropped when the journal is read. Each line has its digest.

    Args:
      folder: of the files, which are named by how many lines had been learned when they were begun.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._handle: int | None = None

    def entries(self, after: int) -> Iterator[Entry]:
        """The entries since `after` lines had been learned, oldest first.

        Raises:
          Damaged: a line that is not what was written, or some are missing.
        """
        learned = after
        for begun in self._begun():
            file = self.folder / f"{begun}{ENDING}"
            written = file.read_bytes()
            whole = written[: written.rfind(b"\n") + 1]
            if len(whole) < len(written):
                os.truncate(file, len(whole))
            for at, line in enumerate(whole.splitlines(), start=1):
                try:
                    entry = Entry(**unseal(parse_json(line, "it")))
                except (ValueError, TypeError) as error:
                    why = one_line(error).partition(";")[0]
                    raise Damaged(
                        f"line {at} of {file} is damaged ({why}); what was learned after it is lost"
                    ) from None
                if entry.learned < after or (entry.learned == after and entry.label is not None):
                    continue
                if entry.label is not None and entry.learned != learned + 1:
                    raise Damaged(f"{file} goes on at example {entry.learned}, and the checkpoint ends at {learned}")
                learned = entry.learned
                yield entry

    def begin(self, learned: int) -> None:
        """Goes on in the file of a checkpoint that is about to be written."""
        self.close()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._handle = os.open(self.folder / f"{learned}{ENDING}", flags, 0o644)

    def append(self, entry: Entry) -> None:
        """Writes an entry; it is in the system's hands, whatever becomes of the process, when this returns."""
        line = json.dumps(seal(dataclasses.asdict(entry)), ensure_ascii=True).encode() + b"\n"
        if os.write(self._handle, line) != len(line):
            raise OSError(f"the journal {self.folder} could not be written whole; is the disk full?")

    def drop(self, before: int) -> None:
        """Deletes the files that end at a checkpoint of `before` lines learned, or earlier."""
        begun = self._begun()
        for this, following in itertools.pairwise(begun):
            if following <= before:
                (self.folder / f"{this}{ENDING}").unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file that is written to."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _begun(self) -> list[int]:
        return sorted(int(file.stem) for file in self.folder.glob(f"*{ENDING}") if file.stem.isdigit())
