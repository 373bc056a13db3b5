"""Where assets are kept, and what is known about those that are there."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import pydantic
from filelock import FileLock

from ft_jax.assets.errors import AssetRefused
from ft_jax.outside import read_json


def cache_folder() -> Path:
    """``$FT_JAX_CACHE``, or else ``~/.cache/ft_jax``."""
    return Path(os.environ.get("FT_JAX_CACHE") or "~/.cache/ft_jax").expanduser()


def sha256_of(path: Path) -> str:
    """The file's sha256 in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` against other processes that would change it too; it is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        for pattern in (".unpacking-*", ".writing-*"):  # of a process that was killed while it held the folder
            for left in folder.glob(pattern):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes ``target``'s place when the block ends well, and leaves no trace otherwise."""
    # Opened as any file is, and not by tempfile, so that it is for those whom the process's files are for.
    unfinished = target.parent / f".writing-{secrets.token_hex(8)}"
    with open(unfinished, "xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(unfinished, target)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


class _Record(pydantic.BaseModel):
    archives: dict[str, str] = {}
    members: dict[str, dict[str, int]] = {}


def read_record(folder: Path) -> dict:
    """What was written about a package's folder: digests of its archives, and the files of each member kept.

    Raises:
      AssetRefused: it is damaged.
    """
    path = folder / "record.json"
    if not path.is_file():
        return {"archives": {}, "members": {}}
    try:
        return _Record.model_validate(read_json(path), strict=True).model_dump()
    except ValueError as error:
        raise AssetRefused(
            f"{path} is damaged ({str(error).splitlines()[0]}); delete its folder to fetch the package again"
        ) from None


def write_record(folder: Path, record: Mapping) -> None:
    """Put a package's record in place of the old one."""
    with replacing(folder / "record.json") as file:
        file.write(json.dumps(record, indent=1, sort_keys=True).encode())


def kept(folder: Path, path: str) -> Path | None:
    """The cached file or folder of that member, if all of it is there at its full size; else None."""
    prefix = path if not path or path.endswith("/") else f"{path}/"
    for member, files in read_record(folder)["members"].items():
        if not member or path == member or path.startswith(f"{member.removesuffix('/')}/"):
            sizes = {name: size for name, size in files.items() if name == path or name.startswith(prefix)}
            paths = {name: folder / "files" / name for name in sizes}
            if sizes and all(paths[name].is_file() and paths[name].stat().st_size == sizes[name] for name in sizes):
                return folder / "files" / path
    return None
