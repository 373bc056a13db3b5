"""Experiments by name or file: finding, listing and loading them."""

import ast
import dataclasses
import importlib
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ft_jax
from ft_jax.cli.entry import Parser
from ft_jax.cli.text import columns

PACKAGE = "experiments"


@dataclasses.dataclass(frozen=True)
class Found:
    """An experiment's file.

    Attributes:
      name: ``"transfer/sentiment"``.
      file: ``.../experiments/transfer/sentiment.py``.
      doc: the first line of its documentation.
    """

    name: str
    file: Path
    doc: str

    @property
    def family(self) -> str:
        """The folder it is in."""
        return self.name.partition("/")[0]


def command(words: Sequence[str]) -> int:
    """Prints the experiments by family."""
    parser = Parser(prog="ft-jax list", description="The experiments here and in the installed package, by family.")
    parser.add_argument("--json", action="store_true", help="a list of objects with name, family, doc and file")
    options = parser.parse_args(words)
    found = experiments()
    if options.json:
        told = [{"name": one.name, "family": one.family, "doc": one.doc, "file": str(one.file)} for one in found]
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return 0
    if not found:
        print("no experiments: there is no folder experiments/ here, and the package has none")
        return 0
    rows: list[tuple[str, str] | str] = []
    for family in dict.fromkeys(one.family for one in found):
        rows.append(family)
        rows += [(one.name, one.doc) for one in found if one.family == family]
    print(f"{columns(rows)}\n\nft-jax run NAME trains one; ft-jax run NAME --help lists its fields")
    return 0


def roots() -> list[Path]:
    """The folders of experiments: the one here first, then the installed package's."""
    return list(dict.fromkeys(path.resolve() for path in [Path(PACKAGE), *_installed()] if path.is_dir()))


def _installed() -> list[Path]:
    shipped = beside(PACKAGE)
    return [] if shipped is None else [shipped]


def beside(package: str) -> Path | None:
    """The folder of a package that ships with ft_jax: installed inside it, or next to it in the repository.

    Its name is so general that another package of the environment may have it, so it is never looked up by name.
    """
    own = Path(ft_jax.__file__).resolve().parent
    if (own / package / "__init__.py").is_file():
        return own / package
    repository = own.parent
    return repository / package if (repository / "setup.py").is_file() and (repository / package).is_dir() else None


def import_file(file: Path) -> ModuleType:
    """A Python file as a module, whose neighbours it can import.

    A file in a package is imported by its full name, so that relative imports work; the folder of another one (of the
    package's top, in a package) goes to the front of ``sys.path``, as Python does for a script.
    """
    file = file.resolve()
    top, parts = file.parent, [file.stem]
    while (top / "__init__.py").is_file() and top.name.isidentifier():
        parts.insert(0, top.name)
        top = top.parent
    if str(top) not in sys.path:
        sys.path.insert(0, str(top))
    name = ".".join(parts) if len(parts) > 1 else f"experiment_file_{file.stem}"
    known = sys.modules.get(parts[0]) if len(parts) > 1 else None
    if len(parts) > 1 and (known is None or str(top / parts[0]) in getattr(known, "__path__", ())):
        return importlib.import_module(name)
    # No package, or one whose top name another package of this process has already.
    spec = importlib.util.spec_from_file_location(name if len(parts) == 1 else f"experiment_file_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their own module up while they are made.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def experiments() -> list[Found]:
    """Every ``experiments/<family>/<name>.py`` that defines ``experiment``; files here hide installed ones."""
    found: dict[str, Found] = {}
    for root in roots():
        for file in sorted(root.glob("[!_.]*/[!_.]*.py")):
            name, doc = file.relative_to(root).with_suffix("").as_posix(), _documentation(file)
            if doc is not None:
                found.setdefault(name, Found(name, file, doc))
    return [found[name] for name in sorted(found)]


def _documentation(file: Path) -> str | None:
    """The first line of a file's docstring, without running it; None where it defines no ``experiment``."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except SyntaxError as error:
        return f"(can't be read: {error.msg}, line {error.lineno})"
    targets = [
        target
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    if not any(isinstance(target, ast.Name) and target.id == "experiment" for target in targets):
        return None
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def find(name: str) -> Path:
    """The file of an experiment.

    Args:
      name: a path ending in ``.py``, ``family/name``, or the name alone where only one family has it.

    Raises:
      FileNotFoundError: a path that isn't there.
      ValueError: a path that is there and no Python file.
      KeyError: an unknown name, with the nearest ones, or one that several families have.
    """
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise FileNotFoundError(f"there is no file {name}; ft-jax list shows the experiments by name")
        return Path(name)
    known = {one.name: one.file for one in experiments()}
    if name in known:
        return known[name]
    same = [full for full in known if full.rpartition("/")[2] == name]
    if len(same) == 1:
        return known[same[0]]
    if same:
        raise KeyError(f"several experiments are called {name!r}: name one of {', '.join(same)}")
    if name and Path(name).exists():
        raise ValueError(_is_another_thing(Path(name)))
    if not known:
        raise KeyError(f"no experiment is called {name!r}, and there is no folder {PACKAGE}/ here; give a file's path")
    from ft_jax.core.params import nearest

    raise KeyError(f"no experiment is called {name!r}; the nearest are {nearest(name, known)}")


def _is_another_thing(path: Path) -> str:
    """What a path is that is no experiment's file, and what may have been meant."""
    if (path / "experiment.json").is_file():
        return f"{path} is the folder of a run; the command that began it goes on with it, and its report shows it"
    if path.is_dir():
        return f"{path} is a folder and no experiment; give a name of ft-jax list, or an experiment's file"
    return f"{path} is no experiment; one reads it, as in ft-jax run classify --data.address {path}"


def load(file: Path) -> Any:
    """The ``experiment`` that a file defines.

    Raises:
      ValueError: a file that fails to run, or defines no `ft_jax.training.experiment.Experiment`.
    """
    try:
        module = import_file(file)
    except Exception as error:
        line = _line_in(error, file.resolve())
        raise ValueError(f"{file} can't be read: {type(error).__name__}: {error}{line}; mend the file") from error
    from ft_jax.training.experiment import Experiment

    experiment = getattr(module, "experiment", None)
    if not isinstance(experiment, Experiment):
        what = "no experiment" if experiment is None else f"experiment as a {type(experiment).__name__}"
        raise ValueError(f"{file} defines {what}; end it with experiment = Experiment(...)")
    first_line = (module.__doc__ or "").strip().partition("\n")[0]
    return experiment if experiment.doc else dataclasses.replace(experiment, doc=first_line)


def _line_in(error: BaseException, file: Path) -> str:
    """Where in the file an error came from, for the message."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f" (line {line})"
