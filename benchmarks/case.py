"""What a benchmark case is given, and the cases by name."""

import ast
import dataclasses
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .shapes import Shape, shape

RESULTS = Path(__file__).with_name("results")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says to a case; None leaves a case's own choice.

    Attributes:
      size: a name of `benchmarks.shapes.SHAPES`.
      methods: names of `benchmarks.programs.METHODS`.
      batch, time, dtype, remat, rank, forward: changes of the shape and the method.
      members: trials of a population.
      repeats: timed repetitions.
      peer: variants of the peer to run beside; none if empty.
      peer_python: the interpreter that has torch.
      profile: a folder for a trace.
    """

    size: str | None = None
    methods: tuple[str, ...] = ()
    batch: int | None = None
    time: int | None = None
    dtype: str | None = None
    remat: str | None = None
    rank: int = 16
    forward: str = "auto"
    members: int | None = None
    repeats: int = 8
    peer: tuple[str, ...] = ()
    peer_python: str | None = None
    profile: str | None = None

    def asked(self, case: str, known: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
        """What a case whose methods are kinds of measurement is asked for.

        Raises:
          ValueError: a kind that it does not have.
        """
        unknown = [name for name in self.methods if name not in known]
        if unknown:
            raise ValueError(f"{case} measures no {unknown[0]!r}; use {', '.join(known)}")
        return self.methods or tuple(default)

    def shape(self, default: str) -> tuple[str, Shape]:
        """The name and the shape asked for."""
        name = self.size or default
        return name, shape(name, batch=self.batch, time=self.time, dtype=self.dtype, remat=self.remat)


def cases() -> dict[str, str]:
    """The modules of this package that define ``rows(options)``, each with the first line of its documentation."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "rows"]
        if file.stem != "case" and functions:
            found[file.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def rows(name: str, options: Options) -> Iterator[dict[str, Any]]:
    """The rows of a case, as they are measured."""
    yield from importlib.import_module(f"{__package__}.{name}").rows(options)
