"""VeRA, LoHa, LoKr, FourierFT and the norms."""

import jax.numpy as jnp
import numpy as np

from ft_jax.core.method import Method
from ft_jax.models.peft.fields import Field, per_projection
from ft_jax.models.peft.formats import PeftFormat, Saved, register_format
from ft_jax.transfer.fourierft import Spectral, fourierft
from ft_jax.transfer.loha import Hadamard, loha
from ft_jax.transfer.lokr import LEARNED, Kronecker, lokr
from ft_jax.transfer.norm_tuning import NORMS
from ft_jax.transfer.peft.per_module import by_pattern, exactly, per_module, rank_of, ranks_and_alphas, strengths
from ft_jax.transfer.vera import SharedLowRank, vera


def _read_vera(saved: Saved, name: str):
    places, rank = saved.places(".vera_lambda_b"), int(saved.config.get("r", 256))
    if "base_model.vera_A" in saved.tensors:
        a, b = saved.tensors["base_model.vera_A"].T, saved.tensors["base_model.vera_B"].T
    else:
        widths = np.array([saved.shape(place) for place in places]).max(axis=0)
        a, b = drawn_by_torch(int(saved.config.get("projection_prng_key", 0)), rank, *map(int, widths))
    dropout = saved.config.get("vera_dropout") or None
    projections = (jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    return vera(rank, exactly(places), dropout=dropout, projections=projections, name=name)


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
    ranks = {f"model/{place}": rank_of(saved, place, "hada_w1_b") for place in places}
    alpha, alphas = strengths(saved, places, "alpha", 8)
    return loha(int(saved.config.get("r", 8)), alpha, exactly(places), ranks=ranks, alphas=alphas, name=name)


def _describe_loha(holders, modules):
    return ranks_and_alphas(holders, modules, {p: held.first_a.shape[-1] for p, held in holders.items()}, "alpha")


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
    ranks = {f"model/{place}": int(by_pattern(saved, "rank_pattern", place, rank)) for place in places}
    alpha, alphas = strengths(saved, places, "alpha", 8)
    return lokr(
        rank,
        alpha,
        exactly(places),
        ranks=ranks,
        alphas=alphas,
        factor=int(saved.config.get("decompose_factor", -1)),
        both=bool(saved.config.get("decompose_both")),
        name=name,
    )


def _describe_lokr(holders, modules):
    fields = ranks_and_alphas(holders, modules, {place: held.rank for place, held in holders.items()}, "alpha")
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
    return fourierft(max(counts.values()), scale, exactly(places), counts=counts, seed=seed, name=name)


def _describe_fourierft(holders, modules):
    counts = {place: held.spectrum.shape[0] for place, held in holders.items()}
    # peft asks for a whole name as it is; its patterns need something in front of them.
    count, pattern = per_module(counts, modules, escaped=False)
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
