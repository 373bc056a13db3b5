"""``ft-jax bench``: benchmarks by name, a JSON line for each row."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ft_jax.cli.entry import Parser, place
from ft_jax.cli.experiments import beside, import_file
from ft_jax.cli.text import columns
from ft_jax.core.weights import FORWARDS
from ft_jax.training.process import set_up_process

PACKAGE = "benchmarks"

EVERYTHING: tuple[tuple[str, dict[str, Any]], ...] = (
    ("throughput", {"methods": ("lora", "full"), "peer": ("compile", "liger", "liger+compile")}),
    ("throughput", {"methods": ("lora",), "forward": "merged"}),
    ("throughput", {"methods": ("lora",), "remat": "full", "peer": ("liger+checkpoint",)}),
    ("throughput", {"methods": ("qlora", "dora", "distillation", "dpo"), "peer": ("eager", "compile")}),
    ("composition", {}),
    ("populations", {"peer": ("compile", "liger")}),
    ("generation", {"peer": ("eager",)}),
    ("compilation", {"methods": ("lora", "full")}),
    ("pipeline", {}),
)
"""What ``ft-jax bench all`` runs: a row for every target of docs/performance.md; peers only with ``--peer``."""


def command(words: Sequence[str]) -> int:
    """Runs benchmarks; prints their rows and appends them to the results."""
    parser = Parser(prog="ft-jax bench", description="Benchmarks; one JSON line a row, appended to --out as well.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases, or all; none lists them")
    parser.add_argument("--size", help="a shape: tiny, small, minilm, smollm2-135m, llama-1b, llama-3b, llama-8b")
    parser.add_argument(
        "--methods", nargs="+", default=(), help="steps: lora, full, qlora, dora, distillation, dpo, ..."
    )
    parser.add_argument("--batch", type=int, help="examples a step")
    parser.add_argument("--time", type=int, help="tokens an example")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the arithmetic")
    parser.add_argument("--remat", choices=("none", "dots", "full"), help="what the backward pass computes again")
    parser.add_argument("--rank", type=int, default=16, help="of LoRA")
    parser.add_argument("--forward", choices=FORWARDS, default="auto", help="of LoRA")
    parser.add_argument("--members", type=int, help="trials of a population")
    parser.add_argument("--repeats", type=int, default=8, help="timed repetitions")
    parser.add_argument(
        "--peer", nargs="*", metavar="VARIANT", help="run transformers and peft beside: eager, compile, ..."
    )
    parser.add_argument("--peer-python", help="the interpreter that has torch; this one by default")
    parser.add_argument("--profile", metavar="FOLDER", help="write a trace there; rows of the ten slowest operations")
    parser.add_argument(
        "--out", type=place, metavar="FOLDER", help="where NAME.jsonl grows; benchmarks/results by default"
    )
    chosen = vars(parser.parse_args(words))
    names, out, peers = chosen.pop("names"), chosen.pop("out"), chosen.pop("peer")
    for name in ("batch", "time", "rank", "members", "repeats"):
        if chosen[name] is not None and chosen[name] < 1:
            raise ValueError(f"--{name} is {chosen[name]}; give at least 1")
    case, timing = _package("case"), _package("timing")
    known = case.cases()
    if not names:
        print(columns(list(known.items())))
        return 0
    for name in names:
        if name != "all" and name not in known:
            raise ValueError(f"there is no benchmark {name!r}; use all, {', '.join(known)}")
    set_up_process()
    folder = out or case.RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    missing = 0
    for name, settings in runs(names, {**chosen, "methods": tuple(chosen["methods"])}, peers):
        try:
            for row in case.rows(name, case.Options(**settings)):
                told = timing.line(name, **row)
                print(told, flush=True)
                with (folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
                    file.write(told + "\n")
        except Exception as error:
            # One row that can't be had, such as a peer's variant that isn't installed, doesn't end the table.
            if "all" not in names:
                raise
            missing += 1
            what = " ".join([name, *settings["methods"], *settings["peer"]])
            print(f"warning: {what} has no row: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return 1 if missing else 0


def runs(
    names: Sequence[str], chosen: dict[str, Any], peers: Sequence[str] | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Cases with their settings: those named, or for ``all`` those of `EVERYTHING`, each variant of the peer by itself.

    Example:
      >>> [settings["peer"] for _, settings in runs(["throughput"], {}, ["compile", "liger"])]
      [('compile', 'liger')]
      >>> len(list(runs(["all"], {}, None)))
      9
    """
    for name in names:
        if name != "all":
            yield name, {**chosen, "peer": () if peers is None else tuple(peers) or ("eager",)}
            continue
        for case, own in EVERYTHING:
            variants = () if peers is None else own.get("peer", ())
            for variant in variants or (None,):
                yield case, {**chosen, **own, "peer": (variant,) if variant else ()}


def _package(module: str):
    """A module of the benchmarks here, else of the installed ones."""
    here = Path(PACKAGE)
    folder = here if (here / "case.py").is_file() else beside(PACKAGE)
    if folder is None:
        raise FileNotFoundError(f"there is no folder {PACKAGE}/ here and the package has none; run in the repository")
    return import_file(folder / f"{module}.py")
