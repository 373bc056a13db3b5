"""``ft-jax reproduce``: published numbers measured again, ours beside the paper's."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_jax.cli.entry import Parser, place, sentence
from ft_jax.cli.experiments import PACKAGE, import_file, roots
from ft_jax.cli.text import columns
from ft_jax.core.params import nearest

FOLDER = "reproduce"
"""Of the rows, in every folder of experiments."""


def command(words: Sequence[str]) -> int:
    """Lists the rows, or measures some; 1 where a number does not hold."""
    parser = Parser(prog="ft-jax reproduce", description="Published numbers measured again, ours beside the paper's.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows, or all; none lists them")
    parser.add_argument("--list", action="store_true", help="list the rows and measure nothing")
    parser.add_argument("--json", action="store_true", help="a JSON line a row")
    parser.add_argument("--quick", action="store_true", help="one seed and as little training as shows the direction")
    parser.add_argument("--seeds", type=int, metavar="N", help="how many seeds; a row's own by default")
    parser.add_argument("--out", type=place, default=Path("runs/reproduce"), help="where NAME.json and report.html go")
    parser.add_argument("--record", type=place, metavar="FILE", help="keep what came out as a line of FILE, one a name")
    parser.add_argument("--data", metavar="ADDRESS", help="what the rows read, such as mnist:FILE.npz, for their own")
    options = parser.parse_args(words)
    if options.record is not None and options.quick:
        raise ValueError(f"--record {options.record} keeps whole measurements; leave out --quick")
    if options.seeds is not None and options.seeds < 1:
        raise ValueError(f"--seeds is {options.seeds}; give at least 1")
    known = rows()
    if options.list or not options.names:
        print(listing(known, options.json))
        return 0
    for name in options.names:
        if name != "all" and name not in known:
            raise KeyError(f"there is no row {name!r}; the nearest are {nearest(name, known)}, or all")
    names = list(known) if "all" in options.names else list(dict.fromkeys(options.names))
    loaded = {name: load(name) for name in names}
    without = [name for name, row in loaded.items() if not row.data]
    if options.data is not None and without:
        raise ValueError(f"{without[0]} makes its own data, so --data {options.data} is for other rows; leave it out")
    ended = [measured(name, row, options) for name, row in loaded.items()]
    page = _page(options.out)
    if page is not None and not options.json:
        print(f"report: {page}")
    return 0 if all(ended) else 1


def rows() -> dict[str, Path]:
    """The files of the rows by name; those here hide installed ones."""
    found: dict[str, Path] = {}
    for root in roots():
        for file in sorted((root / FOLDER).glob("[!_.]*.py")):
            found.setdefault(file.stem, file)
    return {name: found[name] for name in sorted(found)}


def load(name: str) -> Any:
    """The ``reproduction`` that a row's file defines.

    Raises:
      ValueError: it defines none.
    """
    from ft_jax.training.reproduction import Reproduction

    row = getattr(import_file(rows()[name]), "reproduction", None)
    if not isinstance(row, Reproduction):
        raise ValueError(f"{PACKAGE}/{FOLDER}/{name}.py defines no reproduction = Reproduction(...); give it one")
    return row


def listing(names: Sequence[str], as_json: bool) -> str:
    """The rows: name, paper, place, setting, seeds and seconds."""
    from ft_jax.training.reproduction import described

    loaded = {name: load(name) for name in names}
    if as_json:
        return "\n".join(json.dumps(described(name, row)) for name, row in loaded.items())
    if not loaded:
        return f"no rows: there is no folder {PACKAGE}/{FOLDER}/ here, and the package has none"
    cells = [
        (name, f"{row.setting} setting", f"{row.seconds:g} s", f"{row.title} ({row.paper}, {row.where})")
        for name, row in loaded.items()
    ]
    return f"{columns(cells)}\n\nft-jax reproduce NAME measures one, all every one; --quick takes less time"


def measured(name: str, row: Any, options: Any) -> bool:
    """Measures a row, prints and writes it; whether it holds."""
    from ft_jax.training.reproduction import keep, record
    from ft_jax.training.run_folder import write_json

    count = options.seeds or (1 if options.quick else len(row.seeds))
    seeds = tuple(range(count)) if row.seeds and count > len(row.seeds) else row.seeds[:count]
    begin = time.perf_counter()
    try:
        found = row.measure(seeds, options.quick, *([options.data or row.data] if row.data else ()))
    except Exception as error:
        if len(options.names) == 1 and "all" not in options.names:
            raise
        # One row that can't be had, such as data that isn't on this computer, doesn't end the table.
        print(f"warning: {name} has no result: {sentence(error)}", file=sys.stderr, flush=True)
        return False
    told = record(name, row, found, seeds, options.quick, time.perf_counter() - begin)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / f"{name}.json", told)
    if options.record is not None:
        keep(options.record, told)
    print(json.dumps({**told, "pictures": list(told["pictures"])}) if options.json else text(told), flush=True)
    return told["holds"]


def text(told: dict) -> str:
    """A measured row for the terminal."""
    seeds = f"seeds {', '.join(map(str, told['seeds']))}" if told["seeds"] else "nothing random"
    heading = f"{told['name']}: {told['verdict']} ({told['paper']}, {told['where']}; {seeds}; {told['seconds']} s)"
    cells = [
        (
            f"  {'met' if one['met'] else 'MISSED'}",
            f"paper {one['paper']}",
            f"ours {one['shown']}",
            one["asked"],
            one["what"],
        )
        for one in told["findings"]
    ]
    difference = [f"  {told['difference']}"] if told["difference"] else []
    return "\n".join([heading, *difference, *([columns(cells)] if cells else [])])


def _page(out: Path) -> Path | None:
    """The page of every row measured in a folder so far."""
    from ft_jax.training.reproduction import write_page

    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(out.glob("*.json"))]
    return write_page(found, out / "report.html") if found else None
