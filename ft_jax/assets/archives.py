"""Reading members out of zip and tar archives without ever running or trusting what is in them."""

import contextlib
import dataclasses
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from ft_jax.assets.errors import AssetRefused, AssetUnavailable
from ft_jax.outside import printable, refusing, trouble_with

NESTED = "!/"
"""What separates an archive from a path inside it."""

MOST = "FT_JAX_UNPACK_MOST"
"""The variable that says how many bytes an archive of unknown digest may unpack to."""

EXPANSION, ALWAYS = 20, 100 << 20
"""Without it: so many times the archive's own size, and so many bytes more."""


@dataclasses.dataclass(frozen=True)
class Archive:
    """An open archive: the names of its plain files, and how to open one of them.

    Attributes:
      title: how messages call it.
      sizes: names of plain files, in the archive's order, and the bytes that each unpacks to.
      links: names of members that are links, devices or sparse files, which are never unpacked.
      open: gives a member's bytes as a binary stream.
      most: how many bytes may be unpacked in all, or None for as many as there are.
    """

    title: str
    sizes: Mapping[str, int]
    links: frozenset[str]
    open: Callable[[str], IO[bytes]]
    most: int | None

    @property
    def files(self) -> tuple[str, ...]:
        """Names of plain files, in the archive's order."""
        return tuple(self.sizes)

    def select(self, path: str) -> tuple[str, ...]:
        """The files that ``path`` names: itself, or everything in that folder.

        Raises:
          AssetUnavailable: the archive has neither such a file nor such a folder.
          AssetRefused: what it names is a link, a device or a sparse file, or is larger than may be unpacked.
        """
        inside = [n for n in (*self.files, *sorted(self.links)) if not path or n == path or n.startswith(path + "/")]
        if not inside:
            shown = ", ".join(self.files[:8]) + (", …" if len(self.files) > 8 else "")
            raise AssetUnavailable(f"{self.title} has no member {printable(path)}; it has {shown}")
        for name in inside:
            if name in self.links:
                raise AssetRefused(
                    f"{self.title}: member {printable(name)} is a link, a device or a sparse file, which is never "
                    "unpacked"
                )
        self.bound(sum(self.sizes[name] for name in inside))
        return tuple(inside)

    def bound(self, size: int) -> None:
        """Raises AssetRefused where so many bytes may not be unpacked."""
        if self.most is not None and size > self.most:
            raise AssetRefused(
                f"{self.title} is refused: it unpacks to {size} bytes and no more than {self.most} are written; where "
                f"you trust it, set {MOST} to that number of bytes"
            )


def escapes(name: str) -> bool:
    """Whether a member of that name would be written outside the folder it is unpacked into.

    Example:
      >>> [escapes(name) for name in ("a/b", "a/../../b", "/etc/b", "C:/b", "a\\\\b")]
      [False, True, True, True, True]
    """
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or bool(PureWindowsPath(name).drive)


def allowed(size: int) -> int:
    """How many bytes an archive of `size` bytes may unpack to, where nothing is known of it.

    Raises:
      ValueError: the variable `MOST` is no number.
    """
    told = os.environ.get(MOST)
    if told and not told.isdigit():
        raise ValueError(f"{MOST} is {printable(told)}; set it to a number of bytes")
    return int(told) if told else ALWAYS + EXPANSION * size


@contextlib.contextmanager
def open_archive(source: Path | IO[bytes], title: str, most: int | None) -> Iterator[Archive]:
    """Open a zip (or wheel) or tar archive, of any compression, by its content.

    Args:
      source: the archive.
      title: how messages call it.
      most: how many bytes may be unpacked in all, or None where the archive is known to be good.

    Raises:
      AssetRefused: it is no archive, it is damaged, unpacks to more than `most`, or a member's name would escape the
        folder it is unpacked into or is no name for a file.
    """
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(open(source, "rb")) if isinstance(source, Path) else source
        with refusing(f"{title} is not a readable zip or tar archive", kind=AssetRefused):
            if zipfile.is_zipfile(stream):
                archive = _zip(stack.enter_context(zipfile.ZipFile(stream)), title, most)
            else:
                stream.seek(0)
                archive = _tar(stack.enter_context(tarfile.open(fileobj=stream, tarinfo=_Entry)), title, most)
        names = (*archive.files, *archive.links)
        for name in names:
            if escapes(name):
                raise AssetRefused(
                    f"{title} is refused: its member {printable(name)} would be written outside the cache"
                )
            wrong = trouble_with(name) or (PurePosixPath(name).as_posix() != name and "is no plain path")
            if wrong:
                raise AssetRefused(f"{title} is refused: its member {printable(name)} {wrong}")
        folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
        both = next((name for name in names if name in folders), None)
        if both is not None:
            raise AssetRefused(f"{title} is refused: its member {printable(both)} is a file and a folder at once")
        yield archive


def _zip(opened: zipfile.ZipFile, title: str, most: int | None) -> Archive:
    entries = [entry for entry in opened.infolist() if not entry.is_dir()]
    links = frozenset(e.filename for e in entries if stat.S_ISLNK(e.external_attr >> 16))
    sizes = {e.filename: e.file_size for e in entries if e.filename not in links}
    return Archive(title, sizes, links, opened.open, most)


class _Entry(tarfile.TarInfo):
    """A member's header; one that is damaged is an error, where tarfile would take it for the archive's end."""

    LONGEST = 1 << 20

    @classmethod
    def fromtarfile(cls, tarfile_):
        """The next header."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"a member's header at byte {tarfile_.offset} is damaged ({error})") from None

    def _proc_member(self, tarfile_):
        # Names and attributes before a member are read into memory, however long they say they are.
        if not (self.isreg() or self.isdir() or self.issym() or self.islnk()) and self.size > self.LONGEST:
            raise tarfile.ReadError(f"a header at byte {self.offset} claims {self.size} bytes")
        return super()._proc_member(tarfile_)


def _tar(opened: tarfile.TarFile, title: str, most: int | None) -> Archive:
    entries: dict[str, tarfile.TarInfo] = {}
    archive = Archive(title, {}, frozenset(), lambda name: opened.extractfile(entries[name]), most)
    for entry in opened:
        # The next header of a compressed archive lies behind all bytes of this member, so the bound comes before it.
        archive.bound(opened.offset)
        if not entry.isdir():
            entries[entry.name.removeprefix("./")] = entry
    # What packs it has its checksum at the end, which tarfile doesn't read to.
    while opened.fileobj.read(1 << 20):
        archive.bound(opened.fileobj.tell())
    sizes = {name: entry.size for name, entry in entries.items() if entry.isreg() and not entry.issparse()}
    return dataclasses.replace(archive, sizes=sizes, links=frozenset(entries) - frozenset(sizes))


def unpack(archive: Archive, path: str, folder: Path) -> tuple[str, ...]:
    """Write the files that ``path`` names under ``folder``, and say which they were.

    ``path`` may go into nested archives by ``archive.tar.gz!/inside``; what is written then lies in a folder called
    ``archive.tar.gz!``.

    Raises:
      AssetUnavailable: there is no such member.
      AssetRefused: a member is a link, is damaged or too large, or would escape.
    """
    outer, nested, inner = path.partition(NESTED)
    if nested:
        with tempfile.TemporaryFile() as copy:
            archive.select(outer)
            if outer not in archive.sizes:
                raise AssetUnavailable(f"{archive.title}: {printable(outer)} is a folder, not an archive to look into")
            _copy(archive, outer, copy)
            copy.seek(0)
            with open_archive(copy, f"{archive.title}/{outer}", archive.most) as inside:
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
    with (
        refusing(f"{archive.title}: member {printable(name)} cannot be read", kind=AssetRefused),
        archive.open(name) as member,
    ):
        shutil.copyfileobj(member, target, 1 << 20)
