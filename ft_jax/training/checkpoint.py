"""Checkpoints of everything that changes, with the place in the data, through orbax."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ft_jax.core import TrainState
from ft_jax.core.params import path_of


class AnotherCheckpoint(ValueError):
    """A checkpoint that belongs to another model or composition."""


def leaf_table(state: TrainState) -> dict[str, str]:
    """Path to type and shape of every leaf, such as ``"params/model/head/kernel": "float32[16, 2]"``."""
    return {
        path_of(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


@jax.jit
def _sums(tree):
    def one(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        width = leaf.dtype.itemsize
        if leaf.dtype == jnp.bool_ or width not in (1, 2, 4):
            leaf, width = leaf.astype(jnp.float32), 4
        bits = jax.lax.bitcast_convert_type(leaf, {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[width])
        return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)

    return jax.tree.map(one, tree)


def checksum(tree: Any) -> str:
    """A cheap digest of arrays: their bits summed as integers, so the order and the devices don't matter."""
    sums = jax.device_get(jax.tree.leaves(_sums(tree)))
    return hashlib.sha256(np.asarray(sums, np.uint32).tobytes()).hexdigest()[:16]


class Checkpoints:
    """The checkpoints of a run folder.

    A checkpoint holds the state without its frozen part, which the model gives anew, and a JSON record. The
    record names the composition, every leaf and the frozen part's checksum, so a checkpoint of something
    else is refused. Writing goes on in the background; a checkpoint appears whole or not at all.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], template: TrainState, keep: int = 1):
        self._folder = folder.absolute()
        self._outline = Outline(template.replace(frozen=None))
        self._identity = {
            "composition": list(names),
            "leaves": leaf_table(template),
            "frozen": checksum(template.frozen),
        }
        self._managers = {kind: self._manager(kind, count) for kind, count in (("last", keep), ("best", 1))}

    def save(self, state: TrainState, record: Mapping[str, Any], kind: str = "last") -> None:
        """Starts saving under the state's step; the state may be donated as soon as this returns."""
        step = int(state.step.reshape(-1)[0])
        manager = self._managers[kind]
        if step in manager.all_steps():
            manager.wait_until_finished()
            manager.delete(step)
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(_nest(state.replace(frozen=None))),
                record=ocp.args.JsonSave({**record, "identity": self._identity}),
            ),
        )

    def newest(self, kind: str = "last") -> int | None:
        """The step of the newest whole checkpoint."""
        return self._managers[kind].latest_step()

    def restore(self, kind: str = "last") -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint's state, without its frozen part, and its record.

        Raises:
          AnotherCheckpoint: it was saved for another model or composition.
        """
        manager = self._managers[kind]
        manager.wait_until_finished()
        step = manager.latest_step()
        record = dict(manager.restore(step, args=ocp.args.Composite(record=ocp.args.JsonRestore()))["record"])
        self._check(record.pop("identity"), self._folder / kind / str(step))
        wanted = self._outline.wanted
        options = ocp.args.PyTreeRestore(wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted))
        saved = manager.restore(step, args=ocp.args.Composite(state=options))["state"]
        return self._outline.fill(saved), record

    def wait(self) -> None:
        """Until everything is on disk."""
        for manager in self._managers.values():
            manager.wait_until_finished()

    def close(self) -> None:
        """Waits and ends the background threads."""
        for manager in self._managers.values():
            manager.close()

    def _manager(self, kind: str, keep: int) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
        return ocp.CheckpointManager(self._folder / kind, options=options)

    def _check(self, saved: Mapping[str, Any], where: Path) -> None:
        remedy = "run with what it was saved for, or choose another run folder"
        mine = self._identity
        if saved["composition"] != mine["composition"]:
            raise AnotherCheckpoint(
                f"checkpoint {where} is of {_methods(saved['composition'])}, not of {_methods(mine['composition'])}; "
                f"{remedy}"
            )
        for path in sorted({*saved["leaves"], *mine["leaves"]}):
            old, new = saved["leaves"].get(path, "missing"), mine["leaves"].get(path, "missing")
            if old != new:
                raise AnotherCheckpoint(
                    f"checkpoint {where} is of another model: {path} is {old} there and {new} here; {remedy}"
                )
        if saved["frozen"] != mine["frozen"]:
            raise AnotherCheckpoint(
                f"checkpoint {where} stands on other frozen weights of the same shapes (checksum {saved['frozen']} "
                f"there, {mine['frozen']} here); {remedy}"
            )


def _methods(names) -> str:
    return " + ".join(names) or "no method"


def _nest(state: TrainState) -> dict[str, Any]:
    """Arrays in nested dicts by path: keys as their bits, arrays without a number left out."""
    nested: dict[str, Any] = {}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if leaf.size == 0:
            continue
        data = jax.random.key_data(leaf) if _is_key(leaf) else leaf
        *folders, name = path_of(key_path).split("/")
        inner = nested
        for folder in folders:
            inner = inner.setdefault(folder, {})
        # Of copies that each process has for itself, orbax takes the first process's as numpy arrays.
        inner[name] = np.asarray(data) if jax.process_count() > 1 and data.is_fully_addressable else data
    return nested


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


class Outline:
    """What a state looks like, without its arrays."""

    def __init__(self, state: TrainState):
        leaves, self._tree = jax.tree_util.tree_flatten_with_path(state)
        self._paths = [path_of(path).split("/") for path, _ in leaves]
        self._keys = [jax.random.key_impl(leaf) if _is_key(leaf) else None for _, leaf in leaves]
        self._empty = [jnp.zeros(leaf.shape, leaf.dtype) if leaf.size == 0 else None for _, leaf in leaves]
        self.wanted = jax.tree.map(_shape_of, _nest(state))

    def fill(self, nested: Mapping[str, Any]) -> TrainState:
        """The state whose arrays are in nested dicts, the inverse of `_nest`."""

        def one(path, impl, empty):
            if empty is not None:
                return empty
            value = nested
            for part in path:
                value = value[part]
            return jnp.asarray(value) if impl is None else jax.random.wrap_key_data(value, impl=impl)

        rows = zip(self._paths, self._keys, self._empty, strict=True)
        return jax.tree.unflatten(self._tree, [one(*row) for row in rows])


def _shape_of(leaf):
    if isinstance(leaf, np.ndarray):
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The JSON record of the newest checkpoint in ``RUN/checkpoints``, without building anything."""
    steps = [int(path.name) for path in (folder / "last").glob("*") if path.name.isdigit()]
    if not steps:
        return None
    return json.loads((folder / "last" / str(max(steps)) / "record" / "metadata").read_text(encoding="utf-8"))
