"""Bytes from an address to a file, counted, digested and checked on the way."""

import hashlib
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ft_jax.assets.errors import AssetRefused, AssetUnavailable
from ft_jax.assets.index import Link, PipSettings, local_path, session, verification

_CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """The file's sha256 in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(what: str, found: str, expected: str | None, source: str) -> None:
    """Refuse bytes whose digest is not the expected one.

    Raises:
      AssetRefused: it isn't.
    """
    if expected and found != expected:
        raise AssetRefused(
            f"{what} is refused: its sha256 is {found}, {source} says {expected}; "
            "it was damaged on the way or replaced, so check where your pip settings take it from"
        )


def download(link: Link, folder: Path, title: str, settings: PipSettings) -> tuple[Path, str]:
    """Bring an archive into a new file in ``folder``; the caller removes it.

    Returns:
      The file, and the sha256 of what it holds.

    Raises:
      AssetUnavailable: the connection failed.
      AssetRefused: the bytes aren't those that the index states; nothing is left behind.
    """
    digest = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=folder, prefix="download-", delete=False) as file:
        path = Path(file.name)
        try:
            for chunk in _progress(title, *_open(link, settings)):
                digest.update(chunk)
                file.write(chunk)
            check_digest(f"{title} ({link.filename})", digest.hexdigest(), link.sha256, "its index")
        except (requests.RequestException, OSError) as error:
            path.unlink()
            raise AssetUnavailable(f"could not be downloaded ({link.filename}: {type(error).__name__})") from error
        except BaseException:
            path.unlink()
            raise
    return path, digest.hexdigest()


def _open(link: Link, settings: PipSettings) -> tuple[int | None, Iterator[bytes]]:
    if urllib.parse.urlsplit(link.url).scheme == "file":
        path = local_path(link.url)
        return path.stat().st_size, _read(path)
    return _receive(link.url, settings)


def _read(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _receive(url: str, settings: PipSettings) -> tuple[int | None, Iterator[bytes]]:
    connection = session(settings)
    response = connection.get(url, stream=True, timeout=settings.timeout, verify=verification(settings, url))
    response.raise_for_status()
    length = response.headers.get("Content-Length")

    def chunks() -> Iterator[bytes]:
        with connection, response:
            yield from response.iter_content(_CHUNK)

    return int(length) if length else None, chunks()


def _progress(title: str, total: int | None, chunks: Iterator[bytes]) -> Iterator[bytes]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(f"fetching {title}", total=total)
        for chunk in chunks:
            bar.advance(task, len(chunk))
            yield chunk


def join(parts: tuple[Path, ...], target: Path) -> None:
    """Write the parts one after the other into ``target``."""
    with open(target, "wb") as whole:
        for part in parts:
            with open(part, "rb") as file:
                shutil.copyfileobj(file, whole, _CHUNK)
