"""LoRA and what peft's files call LoRA."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ft_jax.core.weights import LowRank, materialize
from ft_jax.models.peft.experts import targets_of
from ft_jax.models.peft.fields import Field, per_projection
from ft_jax.models.peft.formats import PeftFormat, Saved, register_format
from ft_jax.models.peft.fused import Fusing, concatenated, stretches
from ft_jax.transfer.dora import Directional, dora
from ft_jax.transfer.lora import lora, rslora
from ft_jax.transfer.peft.per_module import exactly, rank_of, ranks_and_alphas, strengths
from ft_jax.transfer.pissa import olora, pissa
from ft_jax.transfer.shifted import Shifted


def _read_lora(saved: Saved, name: str):
    projections, tables = saved.places(".lora_A.weight"), saved.places(".lora_embedding_A")
    ranks = {f"model/{place}": rank_of(saved, place, "lora_A.weight") for place in projections}
    ranks |= {f"model/{place}": rank_of(saved, place, "lora_embedding_A") for place in tables}
    places = (*projections, *tables)
    alpha, alphas = strengths(saved, places, "lora_alpha", 8)
    dropout = saved.config.get("lora_dropout") or None
    common = {"targets": exactly(places), "ranks": ranks, "alphas": alphas, "dropout": dropout, "name": name}
    stabilised, start = bool(saved.config.get("use_rslora")), saved.config.get("init_lora_weights", True)
    rank = int(saved.config.get("r", 8))
    if start in ("pissa", "olora"):
        if stabilised or saved.config.get("use_dora"):
            raise ValueError(f"init_lora_weights={start!r} with use_rslora or use_dora is not implemented")
        return {"pissa": pissa, "olora": olora}[start](rank, alpha, **common)
    if start not in (True, False, "gaussian", "orthogonal", "eva"):
        raise ValueError(
            f"init_lora_weights={start!r} changes the base in a way that is not implemented; save it converted "
            "to a plain LoRA (peft's path_initial_model_for_weight_conversion)"
        )
    if saved.config.get("lora_bias"):
        if saved.config.get("use_dora"):
            raise ValueError("lora_bias with use_dora is not implemented, nor does peft have it")
        return (rslora if stabilised else lora)(rank, alpha, bias=True, **common)
    if saved.config.get("use_dora"):
        return dora(rank, alpha, stabilised=stabilised, **common)
    return (rslora if stabilised else lora)(rank, alpha, **common)


def _describe_lora(holders, modules):
    ranks = {place: held.a.shape[-1] for place, held in holders.items()}
    biased = {"lora_bias": True} if any(isinstance(held, Shifted) for held in holders.values()) else {}
    directional = any(isinstance(held, Directional) for held in holders.values())
    return {
        **ranks_and_alphas(holders, modules, ranks, "lora_alpha"),
        "use_dora": directional,
        "lora_dropout": 0.0,
        **biased,
        **targets_of(modules, holders),
    }


def _plain_lora(holder, matrix):
    """The same function as a LoRA of `matrix`, of up to twice the rank: ``w₀ - matrix = -scale · a₀ @ b₀`` is added."""
    if not isinstance(holder, LowRank):
        raise ValueError(f"the base under {holder.owner} was trained as well; merge it and save the whole model")
    rank = holder.a.shape[-1]
    u, s, vt = np.linalg.svd(np.asarray(materialize(holder.base) - matrix, np.float64), full_matrices=False)
    if s[rank:].max(initial=0.0) > 1e-4 * s[0]:
        raise ValueError(
            f"the base under {holder.owner} changed by more than the rank {rank}, so it was trained as well; merge it "
            "and save the whole model"
        )
    root = np.sqrt(s[:rank])
    a = jnp.concatenate([holder.a, jnp.asarray(u[:, :rank] * root, jnp.float32)], axis=1)
    b = jnp.asarray(root[:, None] * vt[:rank], jnp.float32) / holder.scale
    return dataclasses.replace(holder, a=a, b=jnp.concatenate([holder.b, b]))


_pack_plain, _unpack_plain = per_projection(
    {
        "a": Field("lora_A.weight", transposed=True, window="whole", experts=((0, 2, 1), 2), table="lora_embedding_A"),
        "b": Field("lora_B.weight", transposed=True, window="point", experts=((2, 1, 0), 1), table="lora_embedding_B"),
    }
)
_OWN = {
    Directional: per_projection({"magnitude": Field("lora_magnitude_vector")}),
    Shifted: per_projection({"shift": Field("lora_B.bias")}),
}
"""What some of the classes have besides."""


def _join_lora(parts, sizes, alike):
    """One update of a whole module: of the parts' rank where they read alike, else of their ranks' sum, in blocks."""
    present = [one for one in parts if one is not None]
    first = present[0]
    if isinstance(first, Directional) and len(present) < len(parts):
        raise ValueError(
            f"{first.owner} stands on some parts of a module that is one in the checkpoint; peft's DoRA needs "
            "it on all of them"
        )
    fields = {"magnitude": concatenated(parts, "magnitude", sizes, 1.0)} if isinstance(first, Directional) else {}
    if isinstance(first, Shifted):
        told = [one and dataclasses.replace(one, shift=one.shift * (one.scale / first.scale)) for one in parts]
        fields = {"shift": concatenated(told, "shift", sizes, 0.0)}
    if alike or all(_reads_alike(first, one) for one in present):
        return dataclasses.replace(first, b=concatenated(parts, "b", sizes, 0.0), **fields)
    rows, begins = [], np.cumsum([0, *sizes])
    for one, begin in zip(parts, begins, strict=False):
        if one is not None:
            after = begins[-1] - begin - one.b.shape[-1]
            around = [(0, 0)] * (one.b.ndim - 1) + [(int(begin), int(after))]
            rows.append(jnp.pad(one.b * (one.scale / first.scale), around))
    return dataclasses.replace(
        first, a=jnp.concatenate([one.a for one in present], axis=-1), b=jnp.concatenate(rows, axis=-2), **fields
    )


def _reads_alike(one, other) -> bool:
    same = one.a.shape == other.a.shape and float(one.scale) == float(other.scale)
    return same and bool(jnp.array_equal(one.a, other.a))


def _of(kind, holders):
    return {place: held for place, held in holders.items() if isinstance(held, kind)}


def _pack_lora(holders, modules):
    tensors = _pack_plain(holders, modules)
    for kind, (pack, _) in _OWN.items():
        tensors |= pack(_of(kind, holders), modules)
    return tensors


def _unpack_lora(tensors, holders, modules):
    filled = _unpack_plain(tensors, holders, modules)
    for kind, (_, unpack) in _OWN.items():
        filled |= unpack(tensors, _of(kind, filled), modules)
    return filled


register_format(
    PeftFormat(
        "LORA",
        "transfer.lora",
        (LowRank, Directional, Shifted),
        method=_read_lora,
        describe=_describe_lora,
        pack=_pack_lora,
        unpack=_unpack_lora,
        used=("r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
              "init_lora_weights", "lora_bias", "target_parameters"),
        onto=_plain_lora,
        fusing=Fusing(_join_lora, stretches("b", "magnitude", "shift")),
        turned=True,
        routers=(LowRank,),
        neutral={"megatron_core": "megatron.core", "qalora_group_size": 16,
                 "runtime_config": {"ephemeral_gpu_offload": False}},
    )
)  # fmt: skip
