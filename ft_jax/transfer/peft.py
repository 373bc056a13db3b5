"""The adapters of this family in peft's files."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ft_jax.core.method import Method
from ft_jax.core.weights import LowRank, materialize
from ft_jax.models.peft.fields import Field, per_projection
from ft_jax.models.peft.files import PeftFormat, Saved, register_format
from ft_jax.models.peft.fused import Fusing, concatenated, stretches
from ft_jax.transfer.dora import Directional, dora
from ft_jax.transfer.fourierft import Spectral, fourierft
from ft_jax.transfer.loha import Hadamard, loha
from ft_jax.transfer.lokr import LEARNED, Kronecker, lokr
from ft_jax.transfer.lora import lora, rslora
from ft_jax.transfer.norm_tuning import NORMS
from ft_jax.transfer.pissa import olora, pissa
from ft_jax.transfer.vera import SharedLowRank, vera


def _exactly(places) -> tuple[str, ...]:
    return tuple(f"model/{place}" for place in places)


def _pattern(saved: Saved, field: str, place: str, default):
    """The value of ``rank_pattern`` or ``alpha_pattern`` for a module, by peft's rule."""
    module = saved.modules.names[place]
    for pattern, value in (saved.config.get(field) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _alphas(saved: Saved, places, field: str, default) -> tuple[float, dict[str, float]]:
    alpha = float(saved.config.get(field, default))
    own = {f"model/{place}": float(_pattern(saved, "alpha_pattern", place, alpha)) for place in places}
    return alpha, {path: value for path, value in own.items() if value != alpha}


def _per_module(values: Mapping[str, Any], modules) -> tuple[Any, dict[str, Any]]:
    """The commonest value and the others by module, as peft's patterns."""
    common = Counter(values.values()).most_common(1)[0][0]
    return common, {re.escape(modules.names[place]): value for place, value in values.items() if value != common}


def _number(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value


def _ranks_and_alphas(holders, modules, ranks: Mapping[str, int], alpha: str) -> dict[str, Any]:
    strengths = {place: _number(float(f"{float(held.scale) * ranks[place]:.7g}")) for place, held in holders.items()}
    rank, rank_pattern = _per_module(ranks, modules)
    strength, alpha_pattern = _per_module(strengths, modules)
    fields = {"r": rank, "rank_pattern": rank_pattern, alpha: strength, "alpha_pattern": alpha_pattern}
    return {"target_modules": modules.targets(holders), **fields}


def _read_lora(saved: Saved, name: str):
    projections, tables = saved.places(".lora_A.weight"), saved.places(".lora_embedding_A")
    ranks = {f"model/{place}": _rank(saved, place, "lora_A.weight") for place in projections}
    ranks |= {f"model/{place}": _rank(saved, place, "lora_embedding_A") for place in tables}
    places = (*projections, *tables)
    alpha, alphas = _alphas(saved, places, "lora_alpha", 8)
    dropout = saved.config.get("lora_dropout") or None
    common = {"targets": _exactly(places), "ranks": ranks, "alphas": alphas, "dropout": dropout, "name": name}
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
    if saved.config.get("use_dora"):
        return dora(rank, alpha, stabilised=stabilised, **common)
    return (rslora if stabilised else lora)(rank, alpha, **common)


def _rank(saved: Saved, place: str, ending: str) -> int:
    return saved.tensors[f"{saved.modules.prefix}{saved.modules.names[place]}.{ending}"].shape[0]


def _describe_lora(holders, modules):
    ranks = {place: held.a.shape[-1] for place, held in holders.items()}
    directional = any(isinstance(held, Directional) for held in holders.values())
    return {**_ranks_and_alphas(holders, modules, ranks, "lora_alpha"), "use_dora": directional, "lora_dropout": 0.0}


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


_MAGNITUDE, (_pack_plain, _unpack_plain) = (
    {"magnitude": Field("lora_magnitude_vector")},
    per_projection(
        {
            "a": Field("lora_A.weight", transposed=True, window="whole", table="lora_embedding_A"),
            "b": Field("lora_B.weight", transposed=True, window="point", table="lora_embedding_B"),
        }
    ),
)
_pack_magnitude, _unpack_magnitude = per_projection(_MAGNITUDE)


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
    if alike or all(_reads_alike(first, one) for one in present):
        return dataclasses.replace(first, b=concatenated(parts, "b", sizes, 0.0), **fields)
    rows, begins = [], np.cumsum([0, *sizes])
    for one, begin in zip(parts, begins, strict=False):
        if one is not None:
            after = begins[-1] - begin - one.b.shape[1]
            rows.append(jnp.pad(one.b * (one.scale / first.scale), ((0, 0), (int(begin), int(after)))))
    return dataclasses.replace(
        first, a=jnp.concatenate([one.a for one in present], axis=1), b=jnp.concatenate(rows), **fields
    )


def _reads_alike(one, other) -> bool:
    same = one.a.shape == other.a.shape and float(one.scale) == float(other.scale)
    return same and bool(jnp.array_equal(one.a, other.a))


def _split(holders):
    return {place: held for place, held in holders.items() if isinstance(held, Directional)}


def _pack_lora(holders, modules):
    return {**_pack_plain(holders, modules), **_pack_magnitude(_split(holders), modules)}


def _unpack_lora(tensors, holders, modules):
    filled = _unpack_plain(tensors, holders, modules)
    return {**filled, **_unpack_magnitude(tensors, _split(filled), modules)}


register_format(
    PeftFormat(
        "LORA",
        "transfer.lora",
        (LowRank, Directional),
        method=_read_lora,
        describe=_describe_lora,
        pack=_pack_lora,
        unpack=_unpack_lora,
        used=("r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
              "init_lora_weights"),
        onto=_plain_lora,
        fusing=Fusing(_join_lora, stretches("b", "magnitude")),
        turned=True,
        neutral={"megatron_core": "megatron.core", "qalora_group_size": 16,
                 "runtime_config": {"ephemeral_gpu_offload": False}},
    )
)  # fmt: skip


def _read_vera(saved: Saved, name: str):
    places, rank = saved.places(".vera_lambda_b"), int(saved.config.get("r", 256))
    if "base_model.vera_A" in saved.tensors:
        a, b = saved.tensors["base_model.vera_A"].T, saved.tensors["base_model.vera_B"].T
    else:
        widths = np.array([saved.shape(place) for place in places]).max(axis=0)
        a, b = drawn_by_torch(int(saved.config.get("projection_prng_key", 0)), rank, *map(int, widths))
    dropout = saved.config.get("vera_dropout") or None
    projections = (jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    return vera(rank, _exactly(places), dropout=dropout, projections=projections, name=name)


def drawn_by_torch(seed: int, rank: int, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """VeRA's shared projections ``(a [inputs, rank], b [rank, outputs])`` as peft draws them when they are not saved.

    ``torch.Generator().manual_seed(seed)`` is the Mersenne twister, of which a float32 uniform number takes the lower
    24 bits.

    Example:
      >>> a, b = drawn_by_torch(0, 2, 3, 4)
      >>> a.shape, b.shape, round(float(a[0, 0]), 4)
      ((3, 2), (2, 4), -0.0106)
    """
    bits = np.random.RandomState(seed)

    def kaiming(rows, fan):
        raw = bits.randint(0, 2**32, size=rows * fan, dtype=np.uint64).astype(np.uint32)
        bound = np.float32(3.0**0.5 * (2.0 / fan) ** 0.5)
        unit = (raw & 0xFFFFFF).astype(np.float32) * np.float32(2.0**-24)
        return (unit * (bound + bound) - bound).reshape(rows, fan)

    a = kaiming(rank, inputs)
    return a.T, kaiming(outputs, rank).T


_pack_vectors, _unpack_vectors = per_projection({"inner": Field("vera_lambda_d"), "outer": Field("vera_lambda_b")})


def _pack_vera(holders, modules):
    tensors = _pack_vectors(holders, modules)
    widest = max(holders.values(), key=lambda held: -1 if held.a is None else held.a.shape[0])
    tallest = max(holders.values(), key=lambda held: -1 if held.b is None else held.b.shape[1])
    if widest.a is not None:
        tensors |= {"base_model.vera_A": widest.a.T, "base_model.vera_B": tallest.b.T}
    return tensors


def _describe_vera(holders, modules):
    rank = next(iter(holders.values())).inner.shape[0]
    return {"r": rank, "target_modules": modules.targets(holders), "save_projection": True, "vera_dropout": 0.0}


register_format(
    PeftFormat(
        "VERA",
        "transfer.vera",
        (SharedLowRank,),
        method=_read_vera,
        describe=_describe_vera,
        pack=_pack_vera,
        unpack=_unpack_vectors,
        used=("r", "projection_prng_key", "save_projection", "vera_dropout", "d_initial", "init_weights"),
        taken=("base_model.vera_A", "base_model.vera_B"),
        turned=True,
    )
)


def _read_loha(saved: Saved, name: str):
    places = saved.places(".hada_w1_a")
    ranks = {f"model/{place}": _rank(saved, place, "hada_w1_b") for place in places}
    alpha, alphas = _alphas(saved, places, "alpha", 8)
    return loha(int(saved.config.get("r", 8)), alpha, _exactly(places), ranks=ranks, alphas=alphas, name=name)


def _describe_loha(holders, modules):
    return _ranks_and_alphas(holders, modules, {p: held.first_a.shape[-1] for p, held in holders.items()}, "alpha")


_pack_loha, _unpack_loha = per_projection(
    {
        "first_a": Field("hada_w1_b", transposed=True),
        "first_b": Field("hada_w1_a", transposed=True),
        "second_a": Field("hada_w2_b", transposed=True),
        "second_b": Field("hada_w2_a", transposed=True),
    }
)
register_format(
    PeftFormat(
        "LOHA",
        "transfer.loha",
        (Hadamard,),
        method=_read_loha,
        describe=_describe_loha,
        pack=_pack_loha,
        unpack=_unpack_loha,
        used=("r", "alpha", "rank_pattern", "alpha_pattern", "init_weights"),
    )
)

_LOKR = {"left": "w1", "left_a": "w1_b", "left_b": "w1_a", "right": "w2", "right_a": "w2_b", "right_b": "w2_a"}


def _read_lokr(saved: Saved, name: str):
    places = tuple(dict.fromkeys((*saved.places(".lokr_w1"), *saved.places(".lokr_w1_a"))))
    rank = int(saved.config.get("r", 8))
    ranks = {f"model/{place}": int(_pattern(saved, "rank_pattern", place, rank)) for place in places}
    alpha, alphas = _alphas(saved, places, "alpha", 8)
    return lokr(
        rank,
        alpha,
        _exactly(places),
        ranks=ranks,
        alphas=alphas,
        factor=int(saved.config.get("decompose_factor", -1)),
        both=bool(saved.config.get("decompose_both")),
        name=name,
    )


def _describe_lokr(holders, modules):
    fields = _ranks_and_alphas(holders, modules, {place: held.rank for place, held in holders.items()}, "alpha")
    both = any(held.left is None for held in holders.values())
    return {**fields, "decompose_both": both, "decompose_factor": next(iter(holders.values())).factor}


_pack_lokr, _unpack_lokr = per_projection({name: Field(f"lokr_{_LOKR[name]}", transposed=True) for name in LEARNED})
register_format(
    PeftFormat(
        "LOKR",
        "transfer.lokr",
        (Kronecker,),
        method=_read_lokr,
        describe=_describe_lokr,
        pack=_pack_lokr,
        unpack=_unpack_lokr,
        used=("r", "alpha", "rank_pattern", "alpha_pattern", "decompose_both", "decompose_factor", "init_weights"),
    )
)


def _read_fourierft(saved: Saved, name: str):
    places = saved.places(".fourierft_spectrum")
    prefix, names = saved.modules.prefix, saved.modules.names
    counts = {f"model/{p}": saved.tensors[f"{prefix}{names[p]}.fourierft_spectrum"].shape[0] for p in places}
    scale, seed = float(saved.config.get("scaling", 150.0)), int(saved.config.get("random_loc_seed", 777))
    return fourierft(max(counts.values()), scale, _exactly(places), counts=counts, seed=seed, name=name)


def _describe_fourierft(holders, modules):
    count, pattern = _per_module({place: held.spectrum.shape[0] for place, held in holders.items()}, modules)
    held = next(iter(holders.values()))
    fields = {"n_frequency": count, "n_frequency_pattern": pattern, "random_loc_seed": held.seed}
    return {**fields, "scaling": float(held.scale), "target_modules": modules.targets(holders)}


_pack_fourierft, _unpack_fourierft = per_projection({"spectrum": Field("fourierft_spectrum")})
register_format(
    PeftFormat(
        "FOURIERFT",
        "transfer.fourierft",
        (Spectral,),
        method=_read_fourierft,
        describe=_describe_fourierft,
        pack=_pack_fourierft,
        unpack=_unpack_fourierft,
        used=("n_frequency", "n_frequency_pattern", "scaling", "random_loc_seed", "init_weights"),
        turned=True,
    )
)

register_format(
    PeftFormat(
        "LN_TUNING",
        "transfer.norm_tuning",
        (),
        method=lambda saved, name: Method(name=name, trainable=lambda path, leaf: False),
        describe=lambda holders, modules: {},
        pack=lambda holders, modules: {},
        unpack=lambda tensors, holders, modules: holders,
        used=("target_modules",),
        leaves=NORMS,
        wrapper="ln_tuning_layers",
    )
)
