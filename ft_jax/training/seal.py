"""JSON records that carry a digest of themselves, so that damage is noticed where they are read."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

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
