"""Lines of results, for the experiments that record some."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def tell(lines: Iterable[Mapping[str, Any]], out: Path | None) -> None:
    """Prints lines of JSON, and writes them to a file where there is one."""
    told = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    print(told, end="")
    if out is not None:
        out.write_text(told, encoding="utf-8")
