"""Merges of LoRA adapters, without the model that they are for."""

import dataclasses
import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax import assets
from ft_jax.ensemble.merging.merged import Merged, Tally, write_record
from ft_jax.ensemble.merging.rule import Factors, Piece, Rule, shares, weights_of
from ft_jax.models.checkpoints.safetensors_file import read_safetensors, write_safetensors
from ft_jax.models.checkpoints.stored import Stored
from ft_jax.models.checkpoints.whole_folder import building, vacant
from ft_jax.models.peft.adapter_config import Adapter
from ft_jax.models.peft.files import CONFIG, TENSORS
from ft_jax.outside import checked, printable, read_json

ENDINGS = {".lora_A.weight": ".lora_B.weight", ".lora_embedding_A": ".lora_embedding_B"}
"""The ending of a first factor's name, and that of its second's."""

CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def merge_adapters(
    rule: Rule,
    adapters: Sequence[str | os.PathLike],
    folder: str | os.PathLike,
    *,
    rank: int | None = None,
    weights: Sequence[float] | None = None,
    base: str | None = None,
    overwrite: bool = False,
) -> Merged:
    """Merges adapters of one base into one adapter, module by module, in peft's two files.

    A rule that is a sum (`uniform`, `ema`, `task_arithmetic`) needs no product of factors: with ``update_k = scale_k ·
    B_k A_k``, ``Σ_k c_k update_k = [c_1 scale_1 B_1 … ] [A_1; …]`` is exact at the sum of the ranks, and the best
    approximation of rank `rank` comes from a QR decomposition of both factors and a singular value decomposition of
    the small square between them. A rule that merges factors (`knots`) is exact at that rank too. Other rules see each
    module's updates as matrices, over a base of zeros, and what they give is brought to `rank` the same way. A module
    that an adapter lacks counts as an update of zero. Whole leaves saved beside adapters (heads, biases) are averaged
    by the weights.

    Args:
      rule: how.
      adapters: folders that peft or ft_jax wrote.
      folder: where to.
      rank: of the result; None keeps a sum and `knots` exact, and for other rules takes the adapters' own where it is
        the same.
      weights: of each adapter, 1 by default.
      base: what the merged adapter names as its base model; needed where the adapters name different ones.
      overwrite: whether an existing folder may be replaced.

    Raises:
      FileNotFoundError: where a folder is no adapter's.
      FileExistsError: where the folder is there and `overwrite` is off.
      ValueError: adapters of another kind, of different bases, whose shapes or ranks disagree without a rule for it.

    Example:
      >>> import jax, tempfile
      >>> from ft_jax import models
      >>> from ft_jax.ensemble import merging
      >>> with tempfile.TemporaryDirectory() as parent:
      ...     for name in "ab":
      ...         merging.write_adapter({"q": (np.ones((2, 4)), np.ones((4, 2)))}, f"{parent}/{name}")
      ...     merged = merging.merge_adapters(merging.uniform(), [f"{parent}/a", f"{parent}/b"], f"{parent}/both")
      >>> merged.ranks, merged.lost
      ((4, 4), 0.0)
    """
    given = weights_of(rule, weights, len(adapters), True, rule.fishers)
    if rule.fishers:
        raise ValueError(f"{rule.name} merges whole models and no adapters, whose factors it would take apart")
    if rank is not None and rank < 1:
        raise ValueError(f"rank is {rank}; a merged adapter needs at least 1")
    folder = vacant(folder, overwrite)
    read = [_read(str(adapter)) for adapter in adapters]
    if len({adapter.folder for adapter in read}) < len(read):
        raise ValueError(f"an adapter is given twice among {', '.join(map(str, adapters))}; use weights= instead")
    named = _base_of(read, base)
    modules = list(dict.fromkeys(module for adapter in read for module in adapter.pairs))
    _check_shapes(read, modules)
    if rule.coefficients is None and rule.factored is None:
        rank = rank or _common_rank(read, rule)
    tally, factors, lost = Tally(len(adapters)), {}, np.zeros(2)
    for module in modules:
        factors[module], part = _merged_module(rule, read, module, given, rank, tally)
        lost += part
    whole = _averaged(read, given)
    ranks = [a.shape[0] for a, _ in factors.values()]
    merged = tally.merged(
        folder,
        rule,
        adapters,
        given,
        ranks=(min(ranks), max(ranks)),
        lost=math.sqrt(lost[0] / lost[1]) if lost[1] else 0.0,
    )
    with building(folder) as unfinished:
        _write(unfinished, factors, whole, read[0].config | {"base_model_name_or_path": named}, read)
        write_record(merged, unfinished)
    return merged


@dataclasses.dataclass(frozen=True)
class _Adapter:
    folder: str
    config: Mapping[str, Any]
    pairs: Mapping[str, tuple[Stored, Stored]]
    whole: Mapping[str, Stored]

    def scale(self, module: str) -> float:
        """The factor of ``B A``, by peft's rules."""
        rank, told = self.pairs[module][0].shape[0], self.config.get("lora_alpha")
        alpha = 8.0 if told is None else float(told)
        for pattern, value in (self.config.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", _inner(module)):
                alpha = float(value)
                break
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def factors(self, module: str, dtype=np.float64) -> tuple[np.ndarray, np.ndarray]:
        """``(a [rank, inputs], b [outputs, rank])`` with the scale in the second; no rows where it lacks the module."""
        a, b = (x.load().astype(dtype) for x in self.pairs[module])
        return a, b * self.scale(module)


def _read(address: str) -> _Adapter:
    folder = Path(assets.resolve(address))
    for file in (CONFIG, TENSORS):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{address} has no {file}; is it an adapter's folder?")
    config = read_json(folder / CONFIG)
    checked(Adapter, config, str(folder / CONFIG))
    if config.get("peft_type") != "LORA":
        raise ValueError(
            f"{address} is a {printable(config.get('peft_type'))} adapter; only LoRA adapters merge without their base"
        )
    if config.get("use_dora"):
        raise ValueError(f"{address} is a DoRA adapter, which is no sum; merge whole models with its weights merged in")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGED_BASE):
        raise ValueError(
            f"{address} was started by {printable(start)}, which changes the base; save it as a plain LoRA first"
        )
    tensors = read_safetensors(folder / TENSORS)
    pairs, used = {}, set()
    for name, tensor in tensors.items():
        ending = next((ending for ending in ENDINGS if name.endswith(ending)), None)
        if ending is None:
            continue
        second = name.removesuffix(ending) + ENDINGS[ending]
        if second not in tensors:
            raise ValueError(f"{address} has {name!r} without {second!r}; the file is not whole")
        if len(tensor.shape) != 2:
            raise ValueError(f"{address} adapts {name!r}, a convolution of shape {tensor.shape}; only matrices merge")
        # The ending stays in the key, so that an embedding is written back as one.
        pairs[name] = (tensor, tensors[second])
        used |= {name, second}
    strange = [name for name in tensors if ".lora_" in name and name not in used]
    if strange:
        raise ValueError(f"{address} has a tensor {strange[0]!r}, which a plain LoRA has not; it can't be merged")
    if not pairs:
        raise ValueError(f"{address} has no LoRA factors in {TENSORS}")
    return _Adapter(address, config, pairs, {name: x for name, x in tensors.items() if name not in used})


def _inner(module: str) -> str:
    """The module's name in the model, without peft's wrapper and the factor's ending."""
    for ending in ENDINGS:
        module = module.removesuffix(ending)
    return module.removeprefix("base_model.model.")


def _base_of(read: Sequence[_Adapter], base: str | None) -> str | None:
    names = {adapter.folder: adapter.config.get("base_model_name_or_path") for adapter in read}
    if base is None and len({name for name in names.values() if name}) > 1:
        said = ", ".join(f"{folder} of {name}" for folder, name in names.items())
        raise ValueError(f"adapters are of different bases ({said}); where it is one, name it with base=")
    return base or next((name for name in names.values() if name), None)


def _check_shapes(read: Sequence[_Adapter], modules) -> None:
    for module in modules:
        shapes = {
            x.folder: (x.pairs[module][1].shape[0], x.pairs[module][0].shape[1]) for x in read if module in x.pairs
        }
        (first, wanted), *others = shapes.items()
        for name, shape in others:
            if shape != wanted:
                raise ValueError(
                    f"{_inner(module)!r} is {wanted} in {first} and {shape} in {name}; only adapters of one base "
                    "merge; leave one of them out"
                )


def _common_rank(read: Sequence[_Adapter], rule: Rule) -> int:
    ranks = {x.folder: max(a.shape[0] for a, _ in x.pairs.values()) for x in read}
    if len(set(ranks.values())) > 1:
        said = ", ".join(f"{rank} in {folder}" for folder, rank in ranks.items())
        raise ValueError(
            f"adapters have different ranks ({said}) and {rule.name} is no sum; give the result's (--rank, rank=)"
        )
    return next(iter(ranks.values()))


def _merged_module(rule: Rule, read, module: str, weights, rank: int | None, tally: Tally):
    """The merged factors, with the squared norm that the rank had no room for and the whole."""
    present = [adapter.factors(module) if module in adapter.pairs else None for adapter in read]
    a, b = next(pair for pair in present if pair is not None)
    shape = (b.shape[0], a.shape[1])
    matrices = np.stack(
        [np.zeros(shape, np.float32) if p is None else (p[1] @ p[0]).astype(np.float32) for p in present]
    )
    piece = Piece(module, matrices, weights, np.zeros(shape, np.float32))
    if rule.coefficients is None and rule.factored is None:
        update = rule(piece)
        tally.add(piece, update)
        u, s, vt = np.linalg.svd(update.astype(np.float64), full_matrices=False)
    else:
        a, b = _factors(rule, module, present, weights)
        tally.add(piece, (b @ a).astype(np.float32))
        if rank is None:
            return (a, b), np.array([0.0, np.sum(np.square(b @ a))])
        u, s, vt = _small_svd(a, b)
    rank = min(rank, len(s))
    root = np.sqrt(s[:rank])
    squares = np.square(s)
    return (root[:, None] * vt[:rank], u[:, :rank] * root), np.array([squares[rank:].sum(), squares.sum()])


def _factors(rule: Rule, module: str, present: Sequence[Factors | None], weights: np.ndarray) -> Factors:
    """The merged update's factors; a model without the module adds none."""
    there = [place for place, pair in enumerate(present) if pair is not None]
    if rule.factored is not None:
        return rule.factored(module, [present[place] for place in there], weights[there])
    coefficients = rule.coefficients(weights)
    a = np.concatenate([present[place][0] for place in there])
    return a, np.concatenate([coefficients[place] * present[place][1] for place in there], axis=1)


def _small_svd(a: np.ndarray, b: np.ndarray):
    """The singular value decomposition of ``b @ a`` without forming it."""
    left, upper = np.linalg.qr(b)
    right, lower = np.linalg.qr(a.T)
    u, s, vt = np.linalg.svd(upper @ lower.T)
    return left @ u, s, vt @ right.T


def _averaged(read: Sequence[_Adapter], weights) -> dict[str, np.ndarray]:
    names = dict.fromkeys(name for adapter in read for name in adapter.whole)
    for name in names:
        for adapter in read:
            if name not in adapter.whole:
                raise ValueError(
                    f"{adapter.folder} has no {name!r}, which another adapter saved whole; train them alike"
                )
            if adapter.whole[name].shape != read[0].whole[name].shape:
                raise ValueError(
                    f"{name!r} has shape {read[0].whole[name].shape} in {read[0].folder} and "
                    f"{adapter.whole[name].shape} in {adapter.folder}; heads of different shapes don't merge"
                )
    parts = shares(weights) if names else weights
    return {
        name: sum(part * adapter.whole[name].load() for part, adapter in zip(parts, read, strict=True))
        .astype(np.float32)
        for name in names
    }  # fmt: skip


def write_adapter(
    factors: Mapping[str, tuple[np.ndarray, np.ndarray]], folder: str | os.PathLike, *, base: str | None = None
) -> None:
    """Writes LoRA factors of named modules as peft's two files, with a scale of 1.

    Args:
      factors: ``{module: (a [rank, inputs], b [outputs, rank])}``.
      folder: where to.
      base: the model's name.
    """
    named = {f"base_model.model.{module}.lora_A.weight": pair for module, pair in factors.items()}
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "task_type": None}
    with building(vacant(folder, False)) as unfinished:
        _write(unfinished, named, {}, config, ())


def _write(folder: Path, factors, whole, config: Mapping[str, Any], read: Sequence[_Adapter]) -> None:
    ranks = {_inner(module): a.shape[0] for module, (a, _) in factors.items()}
    common = Counter(ranks.values()).most_common(1)[0][0]
    others = {re.escape(module): rank for module, rank in ranks.items() if rank != common}
    saved = {name for adapter in read for name in adapter.config.get("modules_to_save") or ()}
    described = {
        **config,
        "r": common,
        "lora_alpha": common,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "modules_to_save": sorted(saved) or None,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "inference_mode": True,
        "layers_to_transform": None,
        "layers_pattern": None,
        "exclude_modules": None,
    }
    tensors = {}
    for module, (a, b) in factors.items():
        ending = next(ending for ending in ENDINGS if module.endswith(ending))
        tensors[module] = a.astype(np.float32)
        tensors[module.removesuffix(ending) + ENDINGS[ending]] = b.astype(np.float32)
    tensors |= whole
    outlines = {name: (x.shape, x.dtype) for name, x in tensors.items()}
    write_safetensors(folder / TENSORS, outlines, ((name, lambda x=x: x) for name, x in tensors.items()))
    (folder / CONFIG).write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", encoding="utf-8")
