"""Bytes from an address to a file, counted, digested and checked on the way."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ft_jax.assets.errors import AssetRefused, NotReached
from ft_jax.assets.index import Link, PipSettings, redacted, session, verification
from ft_jax.outside import printable

MOST = "FT_JAX_DOWNLOAD_MOST"
"""The variable that says how many bytes an archive may have whose size its index doesn't state; else 20 GB."""

_CHUNK = 1 << 20


def check_digest(what: str, found: str, expected: str | None, source: str) -> None:
    """Refuse bytes whose digest is not the expected one.

    Raises:
      AssetRefused: it isn't.
    """
    if expected and found != expected:
        raise AssetRefused(
            f"{what} is refused: its sha256 is {found} and {source} says {expected}; "
            "it was damaged or replaced, so fetch it again from a place you trust"
        )


def download(link: Link, folder: Path, title: str, settings: PipSettings) -> Path:
    """Bring an archive into a new file in ``folder``; the caller removes it.

    Raises:
      NotReached: the connection failed; nothing is left behind.
      AssetRefused: it has more bytes than its index says or, where it doesn't, than `MOST` allows; nothing is left.
    """
    most, says = link.size, "its index says"
    if most is None:
        told = os.environ.get(MOST)
        if told and not told.isdigit():
            raise ValueError(f"{MOST} is {printable(told)}; set it to a number of bytes")
        most, says = int(told or 20e9), f"{MOST} allows"
    received = 0
    with tempfile.NamedTemporaryFile(dir=folder, prefix="download-", delete=False) as file:
        try:
            for chunk in _receive(link.url, title, settings):
                received += len(chunk)
                if received > most:
                    raise AssetRefused(
                        f"{title} ({link.filename}) is refused: it has more than the {most} bytes that {says}; fetch "
                        "it from a place you trust, or have more allowed"
                    )
                file.write(chunk)
        except requests.RequestException as error:
            Path(file.name).unlink()
            raise NotReached(f"could not be downloaded ({redacted(link.url)}: {type(error).__name__})") from error
        except BaseException:
            Path(file.name).unlink()
            raise
    return Path(file.name)


def _receive(url: str, title: str, settings: PipSettings) -> Iterator[bytes]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    # A server may take .tar.gz for a compressed .tar and have the client undo it; then the digest would be wrong.
    headers = {"Accept-Encoding": "identity"}
    with (
        session(settings) as connection,
        connection.get(
            url, stream=True, headers=headers, timeout=settings.timeout, verify=verification(settings, url)
        ) as response,
        Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        ) as progress,
    ):
        response.raise_for_status()
        length = response.headers.get("Content-Length")
        task = progress.add_task(f"fetching {title}", total=int(length) if length else None)
        for chunk in response.iter_content(_CHUNK):
            progress.advance(task, len(chunk))
            yield chunk
