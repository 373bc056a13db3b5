"""Records that carry a digest of themselves and of files, so that damage is noticed where they are read."""

import concurrent.futures
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft_jax.assets.cache import sha256_of

SEAL = "sha256"


class Damaged(ValueError):
    """Something saved is no longer what was saved."""


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the digest of all else in it.

    Example:
      >>> unseal(seal({"step": 3}))
      {'step': 3}
    """
    return {**record, SEAL: _digest(record)}


def unseal(record: Any) -> dict[str, Any]:
    """What was sealed.

    Raises:
      Damaged: it is no record, has no digest, or another than it says.
    """
    if not isinstance(record, dict) or SEAL not in record:
        raise Damaged("it is no record with a digest")
    content = {name: value for name, value in record.items() if name != SEAL}
    if record[SEAL] != _digest(content):
        raise Damaged("it is not what its digest says was written")
    return content


def _digest(record):
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def digests(folder: Path, leaving: str) -> dict[str, str]:
    """The sha256 of every file in a folder and its folders but one, by its path there."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files.pop(leaving, None)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return dict(zip(files, pool.map(sha256_of, files.values()), strict=True))


def check_digests(folder: Path, written: Mapping[str, str], leaving: str) -> None:
    """Raises Damaged, in words that end a sentence, where a file isn't what was written."""
    try:
        found = digests(folder, leaving)
    except OSError as error:
        raise Damaged(f"it can't be read ({error})") from error
    for name in sorted({*found, *written}):
        if found.get(name) != written.get(name):
            what = "is missing" if name not in found else "is not what was saved"
            raise Damaged(f"its file {name} {what}")
