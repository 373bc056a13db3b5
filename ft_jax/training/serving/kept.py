"""The model of a run in its folder: enough to use it without the experiment's file, its methods or its data."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ft_jax import models
from ft_jax.core import Outputs
from ft_jax.core.params import path_of
from ft_jax.core.state import Batch
from ft_jax.models.checkpoints.safetensors_file import read_safetensors, write_safetensors
from ft_jax.models.checkpoints.tokenizers import tokenizer_of_folder
from ft_jax.models.checkpoints.whole_folder import building
from ft_jax.models.model import Model, Origin
from ft_jax.outside import printable, read_json
from ft_jax.training.seal import Damaged, check_digests, digests, seal, unseal
from ft_jax.training.serving.trees import Unwritable, put_together, take_apart
from ft_jax.training.serving.wrapping import Wrapping, wrapping_of

FOLDER, RECORD, WEIGHTS, TOKENIZER = "model", "model.json", "weights.safetensors", "tokenizer"
FORMAT, WRAPPED, FUSED = 2, 3, 4
"""Raised when what `keep` writes changes so that an older `load_run` would read it wrongly: of a model alone, with
methods round it, with members or draws that are fused."""

BASE, AROUND = "base", "wrapping"


class NoModel(ValueError):
    """A run folder that holds no model to use; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """A run's model, as it was when the run ended.

    Attributes:
      run: the run's folder.
      model: with the parameters as the model saw them in the run: adapters and grafts in place.
      base: where the unchanged parameters came from, ``{"address", "dtype", "scan"}``; None where all were kept.
      reads: what the run's data said about its examples, such as ``{"length": 64}``.
      wrapping: the run's methods that wrap the forward pass or fuse members; None where the model answers by itself.
    """

    run: Path
    model: Model
    base: Mapping[str, Any] | None
    reads: Mapping[str, Any]
    wrapping: Wrapping | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """What methods may read of an example beside what the model reads."""
        return () if self.wrapping is None else self.wrapping.fields

    def compiled(self) -> Callable[[Batch], Outputs]:
        """``batch -> Outputs``, as the run's evaluations had them."""
        if self.wrapping is not None:
            return self.wrapping.compiled(self.model.apply)
        run = jax.jit(self.model.apply)
        return lambda batch: run(self.model.params, batch)

    def alone(self, what: str) -> Model:
        """The model for what needs it by itself.

        Raises:
          ValueError: methods of the run wrap its forward pass, so that alone it would answer otherwise.
        """
        if self.wrapping is not None:
            names = ", ".join(self.wrapping.method.names)
            one = f", and export takes one example's adapter by --field {self.fields[0]}=..." if self.fields else ""
            raise ValueError(
                f"the model of {self.run} answers through {names}, and {what} would have the model without; "
                f"ft-jax predict, evaluate and generate answer as the run did{one}"
            )
        return self.model

    def original(self) -> Model:
        """The model that the run began with, a new head drawn at zero.

        Raises:
          ValueError: no address of it is known.
        """
        if self.base is None:
            raise ValueError(
                f"the model of {self.run} came from no address, so an adapter would have no base; export --merged"
            )
        params = dict(_loaded(self.base).params)
        if self.model.apply.kind is not None:
            params = {name: child for name, child in params.items() if name != "head"}
            head = self.model.params.get("head")
            params |= {} if head is None else {"head": jax.tree.map(jnp.zeros_like, head)}
        return dataclasses.replace(self.model, params=params)


def unkeepable(model: Any, params: Any) -> str | None:
    """Why a run's model could not be used from its folder alone, in a sentence; None where it can.

    Args:
      model: as the run built it.
      params: as the model sees them, or their shapes.
    """
    if not isinstance(model, Model):
        return f"the model is a {type(model).__name__}, which only the experiment's own file can build"
    try:
        take_apart(params)
        take_apart(model.apply)
    except Unwritable as error:
        return str(error)
    return None


def keep(
    run: Path,
    model: Model,
    params: Any,
    base: Mapping[str, Any] | None,
    reads: Mapping[str, Any],
    wrapping: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a model into a run's folder, whole or not at all; what the base's address gives anew is left out.

    Args:
      run: the run's folder.
      model: as it was built.
      params: as the model sees them at the run's end.
      base: ``{"address", "dtype", "scan"}`` of the unchanged parameters, or None to keep all of them.
      reads: see `Kept`.
      wrapping: of `ft_jax.training.serving.wrapping.described`.
    """
    told, arrays = take_apart(params)
    around, its = take_apart(wrapping, AROUND)
    shared = {} if base is None else _shared(arrays, its, model)
    arrays |= its
    own = {name: array for name, array in arrays.items() if name not in shared}
    record = {
        "format": FORMAT if wrapping is None else WRAPPED if wrapping["frozen"] is None else FUSED,
        "wrapping": around,
        "apply": take_apart(model.apply)[0],
        "params": told,
        "base": base,
        "shared": shared,
        "checksum": checksum(arrays[name] for name in shared),
        "stop_tokens": list(model.stop_tokens),
        "pad_token": model.pad_token,
        "classes": list(model.classes),
        "problem_type": model.problem_type,
        "origin": None if model.origin is None else dataclasses.asdict(model.origin),
        "reads": dict(reads),
    }
    outlines = {name: (array.shape, np.dtype(array.dtype)) for name, array in own.items()}
    tensors = ((name, lambda array=array: np.asarray(jax.device_get(array))) for name, array in own.items())
    with building(run / FOLDER) as unfinished:
        write_safetensors(unfinished / WEIGHTS, outlines, tensors)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(unfinished / TOKENIZER)
        sealed = seal({**record, "files": digests(unfinished, RECORD)})
        (unfinished / RECORD).write_text(json.dumps(sealed, indent=1) + "\n", encoding="utf-8")
    return run / FOLDER


def _shared(arrays: Mapping[str, Any], around: Mapping[str, Any], model: Model) -> dict[str, str]:
    """The arrays that are the base's, by their names there: the base under an operator is the weight itself.

    Those `around` the model, such as the base under another adapter of a bank, are found by what they hold.
    """
    before = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model.params)}
    if model.apply.kind is not None:
        before = {name: leaf for name, leaf in before.items() if not name.startswith("head/")}
    found = {}
    for name, array in arrays.items():
        origin = "/".join(part for part in name.split("/") if part != BASE)
        old = before.get(origin)
        if old is not None and old.shape == array.shape and old.dtype == array.dtype and _equal(old, array):
            found[name] = origin
    outlines = {_outline(array) for array in before.values()}
    alike = {name: array for name, array in around.items() if _outline(array) in outlines}
    held = {_content(array): name for name, array in before.items()} if alike else {}
    return found | {name: held[_content(array)] for name, array in alike.items() if _content(array) in held}


def _outline(array) -> tuple[Any, ...]:
    return array.shape, np.dtype(array.dtype)


def _content(array) -> tuple[Any, ...]:
    return *_outline(array), hashlib.sha256(_bytes(array)).digest()


def _equal(one, other) -> bool:
    # By bytes on the host, where the checksum wants them anyway; a comparison of its own would compile for every shape.
    return one is other or bool(np.array_equal(_bytes(one), _bytes(other)))


def _bytes(array) -> np.ndarray:
    return np.asarray(jax.device_get(array)).reshape(-1).view(np.uint8)


def checksum(arrays) -> int:
    """A cheap digest of arrays: the sum of their bytes' 32-bit words, in their order, modulo 2³²."""
    total = 0
    for place, array in enumerate(arrays, 1):
        raw = _bytes(array)
        words = np.pad(raw, (0, -raw.size % 4)).view(np.uint32)
        total += int(words.sum(dtype=np.uint64)) * place
    return total % 2**32


def load_run(run: str | Path, base: str | None = None) -> Kept:
    """The model of a finished run.

    Args:
      run: the run's folder.
      base: where the base's parameters are now, in place of the address that the run recorded.

    Raises:
      FileNotFoundError: there is no such folder, or the base is not where the run found it.
      NoModel: no run, one that did not finish, one whose model can't be used from its folder.
      ValueError: it was written by another version, a file of it is damaged, or the base is another one.
    """
    run = Path(run)
    record = _record(run)
    described = put_together(record["apply"], {})
    shared, told = record["shared"], record["params"]
    arrays = {name: jnp.asarray(stored.load()) for name, stored in read_safetensors(run / FOLDER / WEIGHTS).items()}
    if record["base"] is not None:
        origin = {**record["base"], **({"address": base} if base else {})}
        arrays |= _of_base(origin, shared, record["checksum"], run)
    folder = run / FOLDER / TOKENIZER
    model = Model(
        config=described.config,
        params=put_together(told, arrays),
        apply=described,
        tokenizer=tokenizer_of_folder(folder) if folder.is_dir() else None,
        stop_tokens=tuple(record["stop_tokens"]),
        pad_token=record["pad_token"],
        classes=tuple(record["classes"]),
        problem_type=record.get("problem_type"),
        origin=Origin(**record["origin"]) if record.get("origin") else None,
    )
    around = put_together(record.get("wrapping", {"value": None}), arrays)
    return Kept(
        run,
        model,
        base=record["base"] if base is None else {**record["base"], "address": base},
        reads=record["reads"],
        wrapping=None if around is None else wrapping_of(around, model),
    )


def _loaded(base: Mapping[str, Any]) -> Model:
    """The model at a base's address, with the rows of tokens that were added to it."""
    added = tuple(base.get("added_tokens") or ())
    loaded = models.load(base["address"], dtype=base["dtype"], scan=base["scan"], tokenizer=bool(added))
    return models.with_tokens(loaded, added) if added else loaded


def _of_base(origin, shared, expected, run):
    try:
        loaded = _loaded(origin)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"run {run} stands on the model {origin['address']}, which is not here ({error}); give --base where it is"
        ) from error
    leaves = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(loaded.params)}
    missing = [name for name in shared.values() if name not in leaves]
    if missing or checksum(leaves[name] for name in shared.values()) != expected:
        raise ValueError(
            f"{origin['address']} is not the model that run {run} stands on "
            f"({f'it has no {missing[0]}' if missing else 'its numbers differ'}); give --base with the one it was"
        )
    return {name: leaves[there] for name, there in shared.items()}


def _record(run: Path) -> dict[str, Any]:
    if not run.is_dir():
        raise FileNotFoundError(f"{run} is not a folder; give the folder of a run, such as runs/NAME")
    if not (run / "experiment.json").is_file():
        raise NoModel(f"{run} holds no run (it has no experiment.json); give the folder of a run, such as runs/NAME")
    summary = _summary(run)
    if summary.get("status") != "finished":
        status = summary.get("status", "stopped before its end")
        raise NoModel(f"run {run} has no model to use: it is {status}; the command that began it goes on with it")
    if not (run / FOLDER / RECORD).is_file():
        raise NoModel(f"run {run} kept no model: {summary.get('unkept', 'it was made by an earlier version')}")
    record = _json(run / FOLDER / RECORD)
    if record.get("format") not in (FORMAT, WRAPPED, FUSED):
        raise ValueError(
            f"the model of run {run} has format {printable(record.get('format'))} and this version reads {FORMAT} to "
            f"{FUSED}; use the ft_jax that made it, or run it anew"
        )
    try:
        whole = unseal(record)
        check_digests(run / FOLDER, whole["files"], RECORD)
    except Damaged as error:
        raise Damaged(
            f"the model of run {run} is damaged, for {error}; bring it back from a copy, or run anew"
        ) from None
    return whole


def _summary(run: Path) -> dict[str, Any]:
    """How the run ended; where its file is damaged the copy beside it says so, and nothing is written here."""
    file = run / "summary.json"
    if not file.is_file():
        return {}
    try:
        return read_json(file)
    except ValueError:
        spare = file.with_name(f".{file.name}")
        return _json(spare if spare.is_file() else file)


def _json(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except ValueError as error:
        why = str(error).partition(";")[0]
        raise Damaged(
            f"{why}; is the disk full, or was the run copied in part? bring the file back, or run anew"
        ) from None
