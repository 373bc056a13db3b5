"""Folders that appear whole or not at all, each with the digests of its files, of which the newest few are kept."""

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from ft_jax.outside import one_line, read_json
from ft_jax.training.seal import Damaged, check_digests, digests, seal, unseal

RECORD = "record.json"
WRITING, REPLACED, DAMAGED = ".writing-", ".replaced-", ".damaged"


class NotSaved(OSError):
    """Something that could not be written, while what was saved before is still there."""


class SavedFolders:
    """Folders named by their step, written by a thread that training never waits for.

    A folder is written beside its place, every file of it is digested (sha256), the digests and a record are written
    last, and only then it is renamed to its place and older ones are deleted. So what is there is whole, and the only
    good one is never deleted before there is another. Of several processes, all write and the first does the rest.

    Args:
      folder: where they are.
      keep: how many of the newest to keep.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder, self._keep = folder, keep
        self._first = jax.process_index() == 0
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._needed = 0
        if self._first:
            folder.mkdir(parents=True, exist_ok=True)
            self._tidy()

    def steps(self) -> list[int]:
        """The steps of the folders in place, oldest first."""
        return sorted(int(path.name) for path in self.folder.glob("[0-9]*") if path.name.isdigit())

    def write(self, step: int, needed: int, start: Callable[[Path], Callable[[], None]], record: Mapping) -> None:
        """Writes a folder, once the one before is in its place.

        Args:
          step: its name; a folder of that name is replaced.
          needed: about how many bytes will be written.
          start: begins to write into a folder, and gives what waits until that is done.
          record: what `read` gives back, JSON.

        Raises:
          NotSaved: the disk has less than `needed` bytes free, or the one before could not be written.
        """
        self.wait()
        self._step, self._needed = step, needed
        if self._first and shutil.disk_usage(self.folder).free < needed:
            raise self._not_saved("the disk is full")
        unfinished = self.folder / f"{WRITING}{step}"
        if self._first:
            shutil.rmtree(unfinished, ignore_errors=True)
        try:
            done = start(unfinished)
        except Exception as error:
            self._discard(unfinished)
            raise self._not_saved(error) from error
        self._thread = threading.Thread(target=self._finish, args=(step, unfinished, done, record), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until everything is in its place.

        Raises:
          NotSaved: the last folder could not be written.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"saved {self.folder.name}")
        failure, self._failure = self._failure, None
        if failure is not None:
            raise self._not_saved(failure) from failure

    def read(self, step: int) -> tuple[Path, dict[str, Any]]:
        """A folder and its record, once every file of it is known to be what was written.

        Raises:
          Damaged: one isn't, in words that end a sentence.
        """
        folder = self.folder / str(step)
        try:
            record = unseal(read_json(folder / RECORD))
        except (OSError, ValueError) as error:
            raise Damaged(f"its {RECORD} is damaged ({_reason(error)})") from error
        check_digests(folder, record.pop("files"), RECORD)
        return folder, record

    def set_aside(self, step: int) -> Path:
        """Renames a folder that is damaged, so that it doesn't count; where it is now."""
        aside = self.folder / f"{step}{DAMAGED}"
        if self._first:
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(step)).rename(aside)
        return aside

    def _finish(self, step, unfinished, done, record):
        try:
            done()
            if self._first:
                self._put_in_place(step, unfinished, record)
        except BaseException as failure:  # raised by wait, on the main thread
            self._discard(unfinished)
            self._failure = failure

    def _put_in_place(self, step, unfinished, record):
        sealed = seal({**record, "files": digests(unfinished, RECORD)})
        with open(unfinished / RECORD, "w", encoding="utf-8") as file:
            json.dump(sealed, file)
            file.flush()
            os.fsync(file.fileno())
        place, replaced = self.folder / str(step), self.folder / f"{REPLACED}{step}"
        if place.exists():
            place.rename(replaced)
        unfinished.rename(place)
        _sync(self.folder)
        shutil.rmtree(replaced, ignore_errors=True)
        older = [other for other in self.steps() if other != step]
        for other in older[: max(0, len(older) + 1 - self._keep)]:
            shutil.rmtree(self.folder / str(other), ignore_errors=True)

    def _tidy(self):
        """Removes what a killed process left half written, and takes back what it had not yet replaced."""
        for path in self.folder.glob(f"{REPLACED}*"):
            place = self.folder / path.name.removeprefix(REPLACED)
            if not place.exists():
                path.rename(place)
        for path in [*self.folder.glob(f"{WRITING}*"), *self.folder.glob(f"{REPLACED}*")]:
            shutil.rmtree(path, ignore_errors=True)

    def _discard(self, unfinished):
        if self._first:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _not_saved(self, why) -> NotSaved:
        old = self.steps()
        kept = f"the checkpoint of step {old[-1]} is kept" if old else "there is none yet"
        free = shutil.disk_usage(self.folder).free
        return NotSaved(
            f"the checkpoint of step {self._step} is not saved ({_reason(why)}): it needs about {_size(self._needed)} "
            f"and {self.folder} has {_size(free)} free; {kept}, so make room and run the same command again"
        )


def _sync(folder):
    """Has the folder's entries on disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(error) -> str:
    lines = str(error).strip().splitlines()
    return one_line(RuntimeError(lines[0] if lines else type(error).__name__), 200)


def _size(count: int) -> str:
    """A number of bytes as people say it.

    Example:
      >>> _size(999), _size(1_500_000)
      ('999 bytes', '1.5 MB')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
