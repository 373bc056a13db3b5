"""Merges of checkpoints' folders, tensor by tensor, into one that transformers loads."""

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ft_jax import assets
from ft_jax.ensemble.merging.merged import RECORD, Merged, Tally, write_record
from ft_jax.ensemble.merging.rule import Piece, Rule, shares, weights_of
from ft_jax.ensemble.merging.trees import check_outlines, same, wide
from ft_jax.models.checkpoints.export import INDEX
from ft_jax.models.checkpoints.safetensors_file import read_folder, shards_of, write_safetensors
from ft_jax.models.checkpoints.stored import Stored
from ft_jax.models.checkpoints.whole_folder import building, vacant
from ft_jax.outside import printable, read_json

BESIDE = (".json", ".txt", ".model", ".jinja")
"""Files beside the weights that the merged folder takes from the first model."""


def merge_folders(
    rule: Rule,
    models: Sequence[str | os.PathLike],
    folder: str | os.PathLike,
    *,
    base: str | os.PathLike | None = None,
    weights: Sequence[float] | None = None,
    fishers: Sequence[str | os.PathLike] | None = None,
    average: Sequence[str] = (),
    dtype: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
) -> Merged:
    """Merges checkpoints of one architecture into a folder.

    Files are mapped, and one tensor of each model is in memory at a time. The configuration, tokenizer and whatever
    else is beside the weights come from the first model; ``merge.json`` says how the merge was made. The folder
    appears whole or not at all.

    Args:
      rule: how, such as ``ties(density=0.2)``.
      models: folders with config.json and safetensors: paths, ``hf://…`` or ``pkg://…``.
      folder: where to.
      base: the checkpoint that they were trained from, for rules that need one.
      weights: of each model, 1 by default.
      fishers: folders with the Fisher information of each model under the same tensors' names, for `fisher`.
      average: tensors whose names start so are averaged and not merged by the rule, and the base may lack them: a
        head that it never had, such as ``"classifier"``.
      dtype: of the stored numbers; each tensor's own in the first model by default.
      max_shard_bytes: of one file's tensors.
      overwrite: whether an existing folder may be replaced.

    Returns:
      What was merged and how far apart the models are.

    Raises:
      FileNotFoundError: where a folder has no weights.
      FileExistsError: where the folder is there and `overwrite` is off.
      ValueError: models of different architectures, or what the rule refuses; nothing is written.

    Example:
      >>> import jax, tempfile
      >>> from ft_jax import models
      >>> from ft_jax.ensemble import merging
      >>> with tempfile.TemporaryDirectory() as parent:
      ...     several = [models.tiny_decoder(jax.random.key(seed)) for seed in (0, 1)]
      ...     folders = [models.save(m, m.params, f"{parent}/{i}") for i, m in enumerate(several)]
      ...     merged = merging.merge_folders(merging.uniform(), folders, f"{parent}/soup")
      ...     soup = models.load(merged.folder)
      >>> scale = lambda model: model.params["norm"]["scale"]
      >>> gap = scale(soup) - (scale(several[0]) + scale(several[1])) / 2
      >>> float(abs(gap).max()), merged.tensors
      (0.0, 21)
    """
    given = weights_of(rule, weights, len(models), base is not None, fishers is not None)
    folder = vacant(folder, overwrite)
    places = {str(model): Path(assets.resolve(os.fspath(model))) for model in models}
    if len(places) < len(models):
        raise ValueError(f"a model is given twice among {', '.join(map(str, models))}; use weights= to count it more")
    around = {} if base is None else {f"the base {base}": Path(assets.resolve(os.fspath(base)))}
    if fishers is not None and len(fishers) != len(models):
        raise ValueError(f"there are {len(models)} models and {len(fishers)} Fisher informations; pass one for each")
    around |= {f"the Fisher information {f}": Path(assets.resolve(os.fspath(f))) for f in fishers or ()}
    _check_kinds(places | ({} if base is None else dict([next(iter(around.items()))])))
    stored = {name: read_folder(place) for name, place in {**places, **around}.items()}
    _check(stored, set(places), tuple(average))
    first = stored[next(iter(places))]
    floating = [name for name, tensor in first.items() if jnp.issubdtype(tensor.dtype, jnp.floating)]
    for name in set(first) - set(floating):
        same({who: tensors[name].load() for who, tensors in stored.items() if who in places}, name)
    ruled = [name for name in floating if not name.startswith(tuple(average))] if average else floating

    def piece(name, notes=None, averaged=False):
        stacked = wide(*(stored[place][name].load() for place in places))

        def beside(prefix):
            return [x[name].load().astype(stacked.dtype) for who, x in stored.items() if who.startswith(prefix)]

        with_base, with_fishers = base is not None and not averaged, fishers is not None and not averaged
        return Piece(
            name,
            stacked,
            given,
            beside("the base ")[0] if with_base else None,
            np.stack(beside("the Fisher ")) if with_fishers else None,
            notes,
        )

    notes = rule.survey(lambda: map(piece, ruled)) if rule.survey else None
    tally = Tally(len(models))

    def merged_tensor(name):
        if name not in floating:
            return first[name].load()
        averaged = name not in ruled
        parts = piece(name, notes, averaged)
        result = np.sum(parts.spread(shares(given)) * parts.models, axis=0) if averaged else rule(parts)
        tally.add(parts, result)
        return result

    types = {name: jnp.dtype(dtype) if dtype and name in floating else x.dtype for name, x in first.items()}
    with building(folder) as unfinished:
        _write(unfinished, first, types, merged_tensor, max_shard_bytes)
        _copy_beside(next(iter(places.values())), unfinished, dtype)
        merged = tally.merged(folder, rule, models, given)
        write_record(merged, unfinished)
    return merged


def _check_kinds(places: Mapping[str, Path]) -> None:
    """Refuses configurations of different architectures, which tensors of equal shapes would hide."""
    kinds = {}
    for name, place in places.items():
        if (place / "adapter_config.json").is_file():
            raise ValueError(
                f"{name} is an adapter and not a whole model; adapters merge with adapters (merge_adapters)"
            )
        config = place / "config.json"
        if not config.is_file():
            raise FileNotFoundError(
                f"{name} has no config.json; give the folder of a whole model, such as ft-jax export --merged writes"
            )
        kinds[name] = printable(read_json(config).get("model_type"))
    (first, wanted), *others = kinds.items()
    for name, kind in others:
        if kind != wanted:
            raise ValueError(
                f"{first} is a {wanted} and {name} a {kind}; only models of one architecture merge; leave "
                "one of them out"
            )


def _check(stored: Mapping[str, Mapping[str, Stored]], models: set[str], average: tuple[str, ...]) -> None:
    outlines = {
        who: {
            name: tensor.shape
            for name, tensor in tensors.items()
            if not (average and name.startswith(average)) or who in models
        }
        for who, tensors in stored.items()
    }
    firsts = [name for outline in outlines.values() for name in outline]
    for prefix in average:
        if not any(name.startswith(prefix) for name in firsts):
            raise ValueError(
                f"no tensor's name starts with {prefix!r}, which is to be averaged; see the names in the file"
            )
    check_outlines({who: outline for who, outline in outlines.items() if who in models})
    ruled = {name: shape for name, shape in outlines[next(iter(outlines))].items()
             if not (average and name.startswith(average))}  # fmt: skip
    check_outlines({next(iter(outlines)): ruled, **{who: x for who, x in outlines.items() if who not in models}})


def _write(folder: Path, first: Mapping[str, Stored], types, merged_tensor, most: int) -> None:
    sizes = {name: math.prod(tensor.shape) * types[name].itemsize for name, tensor in first.items()}
    shards, places = shards_of(sizes, most), {}
    for index, names in enumerate(shards):
        one = len(shards) == 1
        file = "model.safetensors" if one else f"model-{index + 1:05}-of-{len(shards):05}.safetensors"
        places |= dict.fromkeys(names, file)

        def maker(name):
            return lambda: np.asarray(merged_tensor(name)).astype(types[name], copy=False)

        outlines = {name: (first[name].shape, types[name]) for name in names}
        write_safetensors(folder / file, outlines, ((name, maker(name)) for name in names))
    if len(shards) > 1:
        index_json = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index_json, indent=2) + "\n", encoding="utf-8")


def _copy_beside(source: Path, folder: Path, dtype: str | None) -> None:
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in BESIDE and path.name not in (INDEX, RECORD):
            shutil.copyfile(path, folder / path.name)
    if dtype is not None:
        config = read_json(folder / "config.json")
        config.pop("dtype", None)
        config["torch_dtype"] = str(jnp.dtype(dtype))
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
