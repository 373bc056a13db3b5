"""``ft-jax report``: one page about one or more runs."""

from collections.abc import Sequence
from pathlib import Path

from ft_jax.cli.entry import Parser, place


def command(words: Sequence[str]) -> int:
    """Writes the report and prints its path."""
    parser = Parser(prog="ft-jax report", description="Write the report of one or more runs and print its path.")
    parser.add_argument("run", nargs="+", type=Path, help="the folder of a run")
    parser.add_argument(
        "--out", type=place, help="the page; report.html in the run's folder, or here for several runs, by default"
    )
    options = parser.parse_args(words)

    from ft_jax.training.report import write_report

    one = len(options.run) == 1
    out = options.out or (options.run[0] / "report.html" if one else Path("report.html"))
    if out.is_dir():
        raise IsADirectoryError(f"--out is the folder {out}; give the page's file, such as {out / 'report.html'}")
    print(write_report(options.run, out))
    return 0
