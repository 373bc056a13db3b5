"""Folders that appear whole or not at all."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ft_jax.outside import check_name


def vacant(folder: str | os.PathLike, overwrite: bool) -> Path:
    """`folder` as a path that may be written to.

    Raises:
      FileExistsError: where something is there and `overwrite` is off.
      ValueError: its name deceives or doesn't fit, see `ft_jax.outside.check_name`.
    """
    folder = Path(folder)
    check_name("the folder to write", str(folder))
    if folder.exists() and not overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists; choose another folder, or pass overwrite=True (--overwrite)")
    return folder


@contextlib.contextmanager
def building(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write into, which takes its place at the end, or is removed on an error.

    A previous folder is deleted only once the new one stands.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made as any folder is, so that it is for those whom the process's files are for.
    under_way = folder.parent / f".{folder.name}.{secrets.token_hex(8)}"
    under_way.mkdir()
    try:
        yield under_way
        _replace(under_way, folder)
    except BaseException:
        shutil.rmtree(under_way, ignore_errors=True)
        raise


def _replace(finished: Path, folder: Path) -> None:
    for path in (path for path in finished.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if not folder.exists():
        finished.rename(folder)
        return
    previous = Path(tempfile.mkdtemp(prefix=f".{folder.name}.previous.", dir=folder.parent))
    folder.rename(previous / folder.name)
    finished.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)
