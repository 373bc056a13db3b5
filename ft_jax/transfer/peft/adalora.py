"""AdaLoRA, whose files hold the triplets that were kept."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ft_jax.models.peft.fields import Field, per_projection
from ft_jax.models.peft.formats import PeftFormat, Saved, register_format
from ft_jax.models.peft.fused import Fusing, concatenated, stretches
from ft_jax.transfer.adalora import Singular, adalora
from ft_jax.transfer.peft.per_module import exactly, number, rank_of

_FIELDS = ("steps", "total_step"), ("warmup", "tinit"), ("final", "tfinal"), ("every", "deltaT")


def _read(saved: Saved, name: str):
    """The rank is that of before anything was pruned, which the scale is made of; the tensors hold what is left."""
    places, config = saved.places(".lora_E"), saved.config
    ranks = {f"model/{place}": rank_of(saved, place, "lora_E") for place in places}
    rank = int(config.get("init_r", 12))
    return adalora(
        rank=rank,
        target=min(float(config.get("target_r", 8)), rank),
        alpha=float(config.get("lora_alpha", 8)) or float(rank),
        targets=exactly(places),
        ranks={path: own for path, own in ranks.items() if own != rank},
        orthogonality=float(config.get("orth_reg_weight", 0.5)),
        sensitivity=float(config.get("beta1", 0.85)),
        uncertainty=float(config.get("beta2", 0.85)),
        dropout=config.get("lora_dropout") or None,
        name=name,
        **{
            ours: int(config.get(theirs, default))
            for (ours, theirs), default in zip(_FIELDS, (1, 0, 0, 1), strict=True)
        },
    )


def _without_pruned(holders, modules):
    """Without the triplets whose value is zero, where others have one; ``rank_pattern`` says which they were."""
    values = {place: np.asarray(held.values) for place, held in holders.items()}
    fresh, rank = not any(np.any(own != 0) for own in values.values()), _rank(holders)
    stays = {place: np.ones(own.size, bool) if fresh else own != 0 for place, own in values.items()}
    if all(stay.all() and stay.size == rank for stay in stays.values()):
        return holders, {"rank_pattern": None}
    kept = {
        place: dataclasses.replace(
            held, a=held.a[:, stays[place]], values=held.values[stays[place]], b=held.b[stays[place]]
        )
        for place, held in holders.items()
    }
    pattern = {
        f"{modules.names[place]}.lora_E": [*map(bool, stay), *[False] * (rank - stay.size)]
        for place, stay in stays.items()
    }
    return kept, {"rank_pattern": pattern}


def _rank(holders) -> int:
    return max(1, *(held.values.shape[0] for held in holders.values()))


def _describe(holders, modules):
    """``init_r`` is the largest rank, and ``lora_alpha`` gives the scale with it."""
    held = next(iter(holders.values()))
    scales = {float(f"{float(one.scale):.7g}") for one in holders.values()}
    if len(scales) > 1:
        raise ValueError(f"peft's ADALORA has one scale for all modules, not {sorted(scales)}")
    rank, schedule = _rank(holders), held.schedule
    return {
        "init_r": rank,
        "lora_alpha": number(float(f"{scales.pop() * (rank + 1e-5):.6g}")),
        "target_modules": modules.targets(holders),
        "lora_dropout": 0.0,
        "target_r": number(schedule.target),
        **{theirs: getattr(schedule, ours) for ours, theirs in _FIELDS},
    }


_pack, _unpack = per_projection(
    {
        "a": Field("lora_A", transposed=True),
        "values": Field("lora_E", shape=lambda held: (held.values.shape[0], 1)),
        "b": Field("lora_B", transposed=True),
    }
)


def _join(parts, sizes, alike):
    """One update of a whole module: of the parts' triplets where they read alike, else of all of them, in blocks."""
    present = [one for one in parts if one is not None]
    first = present[0]
    if alike or all(_reads_alike(first, one) for one in present):
        return dataclasses.replace(first, b=concatenated(parts, "b", sizes, 0.0))
    rows, begins = [], np.cumsum([0, *sizes])
    for one, begin in zip(parts, begins, strict=False):
        if one is not None:
            after = begins[-1] - begin - one.b.shape[1]
            rows.append(jnp.pad(one.b * (one.scale / first.scale), ((0, 0), (int(begin), int(after)))))
    return dataclasses.replace(
        first,
        a=jnp.concatenate([one.a for one in present], axis=1),
        values=jnp.concatenate([one.values for one in present]),
        b=jnp.concatenate(rows),
    )


def _reads_alike(one, other) -> bool:
    same = one.a.shape == other.a.shape and float(one.scale) == float(other.scale)
    return same and bool(jnp.array_equal(one.a, other.a)) and bool(jnp.array_equal(one.values, other.values))


register_format(
    PeftFormat(
        "ADALORA",
        "transfer.adalora",
        (Singular,),
        method=_read,
        describe=_describe,
        pack=_pack,
        unpack=_unpack,
        used=(
            "init_r", "target_r", "tinit", "tfinal", "deltaT", "total_step", "beta1", "beta2", "orth_reg_weight",
            "lora_alpha", "lora_dropout", "rank_pattern", "init_lora_weights", "r",
        ),
        fusing=Fusing(_join, stretches("b")),
        lean=_without_pruned,
        turned=True,
        neutral={"megatron_core": "megatron.core", "qalora_group_size": 16,
                 "runtime_config": {"ephemeral_gpu_offload": False}},
    )
)  # fmt: skip
