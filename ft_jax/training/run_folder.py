"""A run's folder: what was run, by which command, and how it ended."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np

from ft_jax.assets.cache import replacing
from ft_jax.outside import check_name, listed, printable, read_json
from ft_jax.training.composition import Use
from ft_jax.training.experiment import Experiment
from ft_jax.training.seal import Damaged, seal, unseal

PACKAGES = ("ft_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "numpy")
NOT_IDENTITY = (
    "type",
    "out",
    "command",
    "versions",
    "went_on",
    "doc",
    "expect",
    "log_every",
    "checkpoints",
    "nonfinite",
)
"""Fields of ``experiment.json`` that may change between a run and its resumption."""

LATER = ("hyper_at",)
"""Fields of an experiment that earlier versions did not have; empty is what they meant."""

GROWING = ("budget.steps", "budget.epochs")
"""Fields that may grow once a run is finished, which then goes on from its end."""


class RunRefused(ValueError):
    """A run folder that must not be written to."""


def describe(value: Any) -> Any:
    """`value` as JSON: dataclasses as their fields with the type's name, functions by their full name.

    Example:
      >>> describe(Use("transfer.lora", rank=4))
      {'name': 'transfer.lora', 'options': {'rank': 4}}
    """
    if isinstance(value, Use):
        return {"name": value.name, "options": describe(value.options)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): describe(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [describe(child) for child in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | jax.Array):
        digest = hashlib.sha256(np.asarray(value).tobytes()).hexdigest()[:16]
        return f"{value.dtype}{list(value.shape)} {digest}"
    if isinstance(value, functools.partial):
        return {"function": describe(value.func), "arguments": describe([*value.args, value.keywords])}
    if isinstance(value, os.PathLike):
        return str(value)
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if name else f"{type(value).__module__}.{type(value).__qualname__}"


def write_json(path: Path, value: Any) -> None:
    """Writes atomically: the old file or the whole new one is there, never a part."""
    with replacing(path) as file:
        file.write(f"{json.dumps(finite(value), indent=1)}\n".encode())


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """`write_json` of a record with a digest of itself, and a spare copy of it beside, for `read_sealed`."""
    sealed = seal(finite(value))
    write_json(_spare(path), sealed)
    write_json(path, sealed)


def read_sealed(path: Path) -> dict[str, Any]:
    """A record that `write_sealed` wrote; where its file is damaged it is repaired from the spare copy.

    Raises:
      FileNotFoundError: there is no such file.
      Damaged: both are damaged.
    """
    try:
        return unseal(read_json(path))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        why = str(error)
    try:
        whole = unseal(read_json(_spare(path)))
    except (OSError, ValueError):
        raise Damaged(f"{path} is damaged ({why}), and so is its copy {_spare(path).name}") from None
    write_json(path, seal(whole))
    return whole


def _spare(path: Path) -> Path:
    return path.with_name(f".{path.name}")


def finite(value: Any) -> Any:
    """`value` in types of JSON, with None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [finite(child) for child in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return finite(np.asarray(value).tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclasses.dataclass(frozen=True)
class GoingOn:
    """A finished run that is to have more steps.

    Attributes:
      field: of the experiment that says how many, ``"budget.steps"`` or ``"budget.epochs"``.
      was, now: its values.
      record: what ``experiment.json`` said.
    """

    field: str
    was: float
    now: float
    record: Mapping[str, Any]


def check_folder(experiment: Experiment, path: Path, resume: bool = True) -> GoingOn | None:
    """Raises RunRefused, in one sentence, on a folder that an experiment must not write to; changes nothing.

    Returns:
      what is asked of a finished run whose budget alone has grown; None elsewhere.
    """
    check_name("the run folder", str(path))
    file = path / "experiment.json"
    if path.exists() and not path.is_dir():
        raise RunRefused(f"run folder {path} is a file; choose another with --out")
    if not file.exists():
        if path.exists() and any(child.name[0] != "." for child in path.iterdir()):
            raise RunRefused(f"run folder {path} holds files but no experiment.json; choose another with --out")
        return None
    if not resume:
        raise RunRefused(f"run folder {path} holds a run already; choose another with --out, or resume it")
    try:
        old = read_sealed(file)
    except Damaged as error:
        raise RunRefused(f"{error}; bring it back from a copy, or choose another run folder with --out") from None
    new = _identity(finite(describe(experiment)))
    difference = first_difference(_identity(old), new)
    if difference:
        field, was, now = difference
        if field in GROWING and _finished(path) and was is not None and now is not None:
            budget = {**old["budget"], field.partition(".")[2]: now}
            if now > was and first_difference(_identity({**old, "budget": budget}), new) is None:
                return GoingOn(field, was, now, old)
            if now < was:
                raise RunRefused(
                    f"run folder {path} is finished with {field} {was} and can't have {now}; give more to go on from "
                    "its end, or choose another with --out"
                )
        raise RunRefused(
            f"run folder {path} holds another experiment, whose {field} is {printable(was, 60)} and not "
            f"{printable(now, 60)}; choose another with --out, or delete it"
        )
    return None


class RunFolder:
    """The folder of one run, held by one process at a time.

    Attributes:
      path: where it is.
      finished: the summary of a run that is through, or None.
    """

    def __init__(self, experiment: Experiment, path: Path, resume: bool = True, command: Sequence[str] | None = None):
        going_on = check_folder(experiment, path, resume)
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(path / ".lock")
        if jax.process_index() == 0:
            try:
                self._lock.acquire(timeout=0)
            except filelock.Timeout:
                raise RunRefused(f"run folder {path} is in use by another process; wait, or choose another") from None
            if not (path / "experiment.json").exists():
                command = list(command or [Path(sys.argv[0]).name, *sys.argv[1:]])
                described = {**describe(experiment), "command": command, "versions": versions()}
                write_sealed(path / "experiment.json", described)
            elif going_on is not None:
                self._go_on(experiment, going_on)
        self.finished = self._summary()

    def _go_on(self, experiment: Experiment, going_on: GoingOn) -> None:
        """Notes that a finished run has more to do; killed in between, either command still goes on from its end."""
        summary = read_sealed(self.path / "summary.json")
        self.finish({**summary, "status": "interrupted"})
        told = {"field": going_on.field, "from": going_on.was, "to": going_on.now, "step": summary["steps"]}
        kept = {name: going_on.record[name] for name in ("command", "versions") if name in going_on.record}
        went_on = [*going_on.record.get("went_on", []), told]
        write_sealed(self.path / "experiment.json", {**describe(experiment), **kept, "went_on": went_on})

    def keep_classes(self, classes: Sequence[str], grows: bool = False) -> None:
        """Writes ``classes.json``, the names of the class ids in their order.

        Args:
          classes: the names.
          grows: whether more may come after those that are there, or have come since.

        Raises:
          RunRefused: the folder's run was begun with other names, whose ids would now mean something else.
        """
        file = self.path / "classes.json"
        there = file.exists()
        old = list(read_sealed(file)["classes"]) if there else list(classes)
        if grows and len(old) != len(classes):
            shared = min(len(old), len(classes))
            longer = len(classes) > shared
            if old[:shared] == list(classes)[:shared]:
                old, there = list(classes), there and not longer
        if old != list(classes):
            raise RunRefused(
                f"run folder {self.path} was begun with the classes {listed(old)} and the data now has "
                f"{listed(classes)}; give it the data it began with, or choose another with --out"
            )
        if classes and not there and jax.process_index() == 0:
            write_sealed(file, {"classes": list(classes)})

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes ``summary.json``."""
        if jax.process_index() == 0:
            write_sealed(self.path / "summary.json", summary)

    def release(self) -> None:
        """Lets other processes have the folder."""
        self._lock.release()

    def _summary(self):
        return _finished(self.path)


def _finished(path: Path) -> dict[str, Any] | None:
    """The summary of a run that is through; None of another."""
    try:
        summary = read_sealed(path / "summary.json")
    except (FileNotFoundError, Damaged):
        return None  # the last checkpoint has all that it is made of
    return summary if summary.get("status") == "finished" else None


def _identity(record):
    # A field that came later and says nothing is what a record from before has.
    given = {name: value for name, value in record.items() if name not in LATER or value}
    return {name: value for name, value in given.items() if name not in NOT_IDENTITY}


def first_difference(old: Any, new: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """The path and both values of the first thing in which two JSON values differ.

    Example:
      >>> first_difference({"a": {"b": 1}}, {"a": {"b": 2}})
      ('a.b', 1, 2)
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            found = first_difference(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
            if found:
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return next((found for i, (a, b) in pairs if (found := first_difference(a, b, f"{path}.{i}"))), None)
    return None if old == new else (path, old, new)
