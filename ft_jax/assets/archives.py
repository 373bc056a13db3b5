"""Reading members out of zip and tar archives without ever running or trusting what is in them."""

import contextlib
import dataclasses
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from ft_jax.assets.errors import AssetRefused, AssetUnavailable

NESTED = "!/"
"""What separates an archive from a path inside it."""


@dataclasses.dataclass(frozen=True)
class Archive:
    """An open archive: the names of its plain files, and how to open one of them.

    Attributes:
      title: how messages call it.
      files: names of plain files, in the archive's order.
      links: names of members that are links or devices, which are never unpacked.
      open: gives a member's bytes as a binary stream.
    """

    title: str
    files: tuple[str, ...]
    links: frozenset[str]
    open: Callable[[str], IO[bytes]]

    def select(self, path: str) -> tuple[str, ...]:
        """The files that ``path`` names: itself, or everything in that folder.

        Raises:
          AssetUnavailable: the archive has neither such a file nor such a folder.
          AssetRefused: what it names is a link or a device.
        """
        inside = [n for n in (*self.files, *sorted(self.links)) if not path or n == path or n.startswith(path + "/")]
        if not inside:
            shown = ", ".join(self.files[:8]) + (", …" if len(self.files) > 8 else "")
            raise AssetUnavailable(f"{self.title} has no member {path!r}; it has {shown}")
        for name in inside:
            if name in self.links:
                raise AssetRefused(f"{self.title}: member {name!r} is a link or a device, which is never unpacked")
        return tuple(inside)


def escapes(name: str) -> bool:
    """Whether a member of that name would be written outside the folder it is unpacked into.

    Example:
      >>> [escapes(name) for name in ("a/b", "a/../../b", "/etc/b", "C:/b", "a\\\\b")]
      [False, True, True, True, True]
    """
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or bool(PureWindowsPath(name).drive)


@contextlib.contextmanager
def open_archive(source: Path | IO[bytes], title: str) -> Iterator[Archive]:
    """Open a zip (or wheel) or tar archive, of any compression, by its content.

    Raises:
      AssetRefused: it is no archive, it is damaged, or a member's name would escape the folder it is unpacked into.
    """
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(open(source, "rb")) if isinstance(source, Path) else source
        try:
            if zipfile.is_zipfile(stream):
                archive = _zip(stack.enter_context(zipfile.ZipFile(stream)), title)
            else:
                stream.seek(0)
                archive = _tar(stack.enter_context(tarfile.open(fileobj=stream)), title)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
            raise AssetRefused(f"{title} is not a readable zip or tar archive: {error}") from error
        for name in (*archive.files, *archive.links):
            if escapes(name):
                raise AssetRefused(f"{title} is refused: its member {name!r} would be written outside the cache")
        yield archive


def _zip(opened: zipfile.ZipFile, title: str) -> Archive:
    entries = [entry for entry in opened.infolist() if not entry.is_dir()]
    links = frozenset(e.filename for e in entries if stat.S_ISLNK(e.external_attr >> 16))
    files = tuple(dict.fromkeys(e.filename for e in entries if e.filename not in links))
    return Archive(title, files, links, opened.open)


def _tar(opened: tarfile.TarFile, title: str) -> Archive:
    entries = {entry.name.removeprefix("./"): entry for entry in opened.getmembers() if not entry.isdir()}
    files = tuple(name for name, entry in entries.items() if entry.isreg())
    return Archive(title, files, frozenset(entries) - frozenset(files), lambda name: opened.extractfile(entries[name]))


def unpack(archive: Archive, path: str, folder: Path) -> tuple[str, ...]:
    """Write the files that ``path`` names under ``folder``, and say which they were.

    ``path`` may go into nested archives by ``archive.tar.gz!/inside``; what is written then lies in a folder called
    ``archive.tar.gz!``.

    Raises:
      AssetUnavailable: there is no such member.
      AssetRefused: a member is a link, is damaged, or would escape.
    """
    outer, nested, inner = path.partition(NESTED)
    if nested:
        with tempfile.TemporaryFile() as copy:
            if outer not in archive.files:
                archive.select(outer)
                raise AssetUnavailable(f"{archive.title}: {outer!r} is a folder, not an archive to look into")
            _copy(archive, outer, copy)
            copy.seek(0)
            with open_archive(copy, f"{archive.title}/{outer}") as inside:
                written = unpack(inside, inner, folder / f"{outer}!")
        return tuple(f"{outer}!/{name}" for name in written)
    names = archive.select(path)
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as file:
            _copy(archive, name, file)
    return names


def _copy(archive: Archive, name: str, target: IO[bytes]) -> None:
    try:
        with archive.open(name) as member:
            shutil.copyfileobj(member, target, 1 << 20)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError, NotImplementedError) as error:
        raise AssetRefused(f"{archive.title}: member {name!r} cannot be read: {error}") from error
