"""Checkpoints of everything that changes, with the place in the data, through orbax."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ft_jax.core import TrainState
from ft_jax.core.params import path_of
from ft_jax.training.saved_folders import SavedFolders
from ft_jax.training.seal import Damaged


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
    else is refused; and the digest of every file, so that a damaged one is noticed and an older one taken.
    Writing and digesting go on in the background; a checkpoint appears whole or not at all.

    Attributes:
      left_out: a sentence for each checkpoint that `restore` found damaged.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], template: TrainState, keep: int = 1):
        self.left_out: list[str] = []
        self._names = names
        self.expect(template)
        self._kinds = {k: SavedFolders(folder.absolute() / k, count) for k, count in (("last", keep), ("best", 1))}
        self._arrays = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())

    def expect(self, template: TrainState) -> None:
        """Takes states that are shaped like this one from now on."""
        self._outline = Outline(template.replace(frozen=None))
        self._identity = {
            "composition": list(self._names),
            "leaves": leaf_table(template),
            "frozen": checksum(template.frozen),
        }

    def record(self, kind: str = "last") -> dict[str, Any] | None:
        """The record of the newest checkpoint that is whole, whatever it was saved for; None where there is none."""
        self.wait()
        for step in reversed(self._kinds[kind].steps()):
            try:
                return self._kinds[kind].read(step)[1]["record"]
            except Damaged:
                continue
        return None

    def save(self, state: TrainState, record: Mapping[str, Any], kind: str = "last") -> None:
        """Starts saving under the state's step; the state may be donated as soon as this returns.

        Raises:
          NotSaved: there is no room for it, or the one before could not be written; older ones are kept.
        """
        self.wait()
        nested = _nest(state.replace(frozen=None))

        def start(place):
            self._arrays.save(place / "state", args=ocp.args.PyTreeSave(nested))
            return self._arrays.wait_until_finished

        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(nested))
        record = {"record": dict(record), "identity": self._identity}
        self._kinds[kind].write(int(state.step.reshape(-1)[0]), needed, start, record)

    def newest(self, kind: str = "last") -> int | None:
        """The step of the newest checkpoint."""
        return max(self._kinds[kind].steps(), default=None)

    def kept(self, kind: str = "last") -> list[int]:
        """The steps of the checkpoints that are there, oldest first."""
        return self._kinds[kind].steps()

    def restore(self, kind: str = "last") -> tuple[TrainState, dict[str, Any]]:
        """The newest whole checkpoint's state, without its frozen part, and its record.

        One that is damaged is renamed, told in `left_out`, and the one before is taken.

        Raises:
          AnotherCheckpoint: it was saved for another model or composition.
          Damaged: none is whole.
        """
        self.wait()
        folders, damaged = self._kinds[kind], {}
        for step in reversed(folders.steps()):
            try:
                folder, saved = folders.read(step)
            except Damaged as error:
                damaged[step] = str(error)
                continue
            self._check(saved["identity"], folder)
            wanted = self._outline.wanted
            options = ocp.args.PyTreeRestore(wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted))
            state = self._outline.fill(self._arrays.restore(folder / "state", args=options))
            for other, why in damaged.items():
                aside = folders.set_aside(other)
                self.left_out.append(f"the checkpoint of step {other} is left out, for {why}; it is now {aside}")
            return state, saved["record"]
        told = "; ".join(f"step {step}: {why}" for step, why in damaged.items()) or "there is none"
        raise Damaged(
            f"no checkpoint in {folders.folder} is whole ({told}); bring one back from a copy, or train anew into "
            "another run folder with --out"
        )

    def wait(self) -> None:
        """Until everything is on disk.

        Raises:
          NotSaved: the last one could not be written; older ones are kept.
        """
        for folders in self._kinds.values():
            folders.wait()

    def close(self) -> None:
        """Waits and ends the background threads."""
        try:
            self.wait()
        finally:
            self._arrays.close()

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
