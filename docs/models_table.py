"""Writes the table of docs/models.md: ``python docs/models_table.py``.

Every architecture of the registry gets a row. Its numbers come from running the checkpoints recorded in tests/golden
now: the difference to what transformers gave, the round trip through `ft_jax.models.save`, and packing.
"""

import dataclasses
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import marks
import numpy as np
from safetensors.numpy import load_file

from ft_jax import models
from ft_jax.models.architectures import ARCHITECTURES, architecture_for

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "tests" / "golden"


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one recorded checkpoint showed.

    Attributes:
      error: largest difference of logits or hidden states to the recorded ones, relative to values above 1.
      round_trip: largest difference of a saved tensor to the recorded one; infinite where the names differ.
      sharded: whether the model saved in small shards loads the same.
      packed: largest difference of packed sequences to separate ones; None where nothing is packed.
      config: the model's.
    """

    error: float
    round_trip: float
    sharded: bool
    packed: float | None
    config: object


def gap(got, want, mask=None) -> float:
    """The largest difference, in units of the largest wanted value where that is above 1."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    weight = 1.0 if mask is None else np.asarray(mask).reshape(*mask.shape, *(1,) * (want.ndim - mask.ndim))
    return float(np.abs((got - want) * weight).max() / max(1.0, np.abs(want * weight).max()))


def cases(arrays) -> list[tuple[dict, str, np.ndarray]]:
    """Recorded batches, the output that was recorded of each (``"logits"`` or ``"hidden"``) and its values."""
    if any(name.startswith("input/") for name in arrays.files):
        batch = {name.removeprefix("input/"): jnp.asarray(arrays[name]) for name in arrays.files if "input/" in name}
        if "pixel_values" in batch:
            batch["images"] = batch.pop("pixel_values").transpose(0, 2, 3, 1)
        if "output/logits" in arrays.files:
            return [(batch, "logits", arrays["output/logits"])]
        return [(batch, "hidden", arrays["output/last"])]
    found = []
    for side in sorted({name.split("/")[0] for name in arrays.files if name.endswith("/input_ids")}):
        batch = {field: jnp.asarray(arrays[f"{side}/{field}"]) for field in ("input_ids", "attention_mask")}
        hidden = sorted(
            (n for n in arrays.files if n.startswith(f"{side}/hidden/")), key=lambda n: int(n.split("/")[2])
        )
        what = f"{side}/logits" if f"{side}/logits" in arrays.files else hidden[-1]
        found.append((batch, "logits" if what.endswith("logits") else "hidden", arrays[what]))
    return found


def error_of(model, arrays) -> float:
    """The largest difference over the recorded batches, padding left out."""
    gaps = []
    for batch, kind, want in cases(arrays):
        own = model.configure(tokens=True) if kind == "hidden" and hasattr(model.config, "tokens") else model
        got = jax.jit(lambda params, batch, own=own, kind=kind: getattr(own.apply(params, batch), kind))(
            own.params, batch
        )
        mask = batch.get("attention_mask")
        counts = mask is not None and mask.shape == want.shape[:2] and want.ndim == 3
        gaps.append(gap(got, want, mask if counts else None))
    return max(gaps)


def packed_error(model) -> float | None:
    """Two sequences packed into one row against each alone; None for models that don't read tokens alone."""
    config = model.config
    if not hasattr(config, "vocabulary") or set(
        getattr(models.model.MODULES[type(config)], "reads", ("input_ids",))
    ) != {"input_ids"}:
        return None
    ids = np.random.default_rng(0).integers(3, config.vocabulary, (1, 11))
    segments = np.array([[1] * 5 + [2] * 6])
    apply = jax.jit(lambda params, batch: model.apply(params, batch).hidden)
    try:
        packed = apply(model.params, {"input_ids": ids, "segment_ids": segments})
    except (KeyError, ValueError):
        return None
    if packed.ndim != 3:  # one vector a row, so nothing to compare token by token
        return None
    alone = [apply(model.params, {"input_ids": part}) for part in (ids[:, :5], ids[:, 5:])]
    return gap(packed, np.concatenate(alone, axis=1))


def difference(saved: Path, original: Path, prefix: str) -> float:
    """The largest difference of two folders' tensors, whose names may have the prefix of a model with a head."""
    mine, theirs = (
        {name.removeprefix(prefix): x for name, x in load_file(folder / "model.safetensors").items()}
        for folder in (saved, original)
    )
    if mine.keys() != theirs.keys():
        return float("inf")
    return max(float(np.abs(mine[name].astype(np.float64) - theirs[name]).max(initial=0.0)) for name in theirs)


def measured(folder: Path) -> Measured:
    """One recorded checkpoint, loaded, run, saved and loaded again."""
    model = models.load(folder, tokenizer=False)
    with tempfile.TemporaryDirectory() as parent:
        saved = models.save(model, model.params, Path(parent) / "saved")
        changed = difference(saved, folder, architecture_for(model.config).prefix)
        shards = models.save(model, model.params, Path(parent) / "shards", max_shard_bytes=20_000)
        again = models.load(shards, tokenizer=False).params
        sharded = jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), again, model.params))
    with np.load(folder / "outputs.npz") as arrays:
        error = error_of(model, arrays)
    return Measured(error, changed, sharded, packed_error(model), model.config)


def cells(architecture, found: list[Measured]) -> list[str]:
    """One row of the table."""
    names = ", ".join(f"`{name}`" for name in architecture.model_types)
    formats = "safetensors, sharded" if all(one.sharded for one in found) else "safetensors"
    formats += ", GGUF" if architecture.gguf is not None else ""
    if not found:
        return [names, "not recorded", "", formats, ""]
    config = found[0].config
    windows = any(getattr(one.config, "window", None) is not None for one in found)
    packed = [one.packed for one in found if one.packed is not None]
    paths = [
        "scan" if hasattr(config, "scan") else "",
        "remat" if hasattr(config, "remat") else "",
        "window ring" if windows and hasattr(models.model.MODULES[type(config)], "empty_caches") else "",
        "" if getattr(config, "attention_softcap", None) is not None else "cuDNN",
        f"packing ({max(packed):.0e})" if packed else "",
    ]
    return [
        names,
        f"{max(one.error for one in found):.1e}",
        f"to {changed:.0e}" if (changed := max(one.round_trip for one in found)) else "bitwise",
        formats,
        ", ".join(path for path in paths if path),
    ]


def tables() -> str:
    """The whole table in Markdown."""
    recorded: dict[str, list[Path]] = {}
    for path in sorted(GOLDEN.rglob("outputs.npz")):
        kind = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))["model_type"]
        recorded.setdefault(kind, []).append(path.parent)
    rows = [["architecture", "parity error", "round trip", "loads from", "speed paths"]]
    for architecture in dict.fromkeys(ARCHITECTURES.values()):
        folders = [folder for name in architecture.model_types for folder in recorded.get(name, [])]
        rows.append(cells(architecture, [measured(folder) for folder in folders]))
    return marks.table(rows[0], rows[1:])


if __name__ == "__main__":
    marks.write(HERE / "models.md", tables())
