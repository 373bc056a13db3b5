"""The rotations of this family in peft's files."""

from ft_jax.core.weights import shape
from ft_jax.models.peft.fields import Field, per_projection
from ft_jax.models.peft.formats import PeftFormat, Saved, register_format
from ft_jax.transfer.boft import Butterfly, boft
from ft_jax.transfer.hra import Reflected, reflections
from ft_jax.transfer.oft import Rotated, oft, shortened
from ft_jax.transfer.peft.per_module import exactly


def _read_oft(saved: Saved, name: str):
    places, config = saved.places(".oft_R.weight"), saved.config
    stored = {p: saved.tensors[f"{saved.modules.prefix}{saved.modules.names[p]}.oft_R.weight"] for p in places}
    # A triangle of t numbers is that of a square with edge e, e (e - 1) / 2 = t.
    blocks = {f"model/{place}": round((1 + (1 + 8 * x.shape[1]) ** 0.5) / 2) for place, x in stored.items()}
    return oft(
        max(blocks.values()),
        exactly(places),
        blocks=blocks,
        shared=bool(config.get("block_share")),
        terms=int(config.get("num_cayley_neumann_terms", 5)) if config.get("use_cayley_neumann", True) else None,
        epsilon=float(config.get("eps", 6e-5)) if config.get("coft") else None,
        name=name,
    )


def _describe_oft(holders, modules):
    held = next(iter(holders.values()))
    edges = {held.block for held in holders.values()}
    counts = {shape(held)[0] // held.block for held in holders.values()}
    if len(edges) > 1 and len(counts) > 1:
        raise ValueError(f"peft's OFT has one block edge or one number of blocks for all, not edges {sorted(edges)}")
    size = {"r": 0, "oft_block_size": edges.pop()} if len(edges) == 1 else {"r": counts.pop(), "oft_block_size": 0}
    return {
        **size,
        "target_modules": modules.targets(holders),
        "coft": held.epsilon is not None,
        "eps": 6e-5 if held.epsilon is None else float(held.epsilon),
        "block_share": held.skew.shape[0] == 1 and shape(held)[0] > held.block,
        "use_cayley_neumann": held.terms is not None,
        "num_cayley_neumann_terms": held.terms or 5,
    }


_pack_oft, _unpack_skew = per_projection({"skew": Field("oft_R.weight")})


def _unpack_oft(tensors, holders, modules):
    """peft saves what the last step of the optimizer gave and constrains it when it is next used."""
    filled = _unpack_skew(tensors, holders, modules)
    return {place: held if held.epsilon is None else shortened(held, held.epsilon) for place, held in filled.items()}


register_format(
    PeftFormat(
        "OFT",
        "transfer.oft",
        (Rotated,),
        method=_read_oft,
        describe=_describe_oft,
        pack=_pack_oft,
        unpack=_unpack_oft,
        used=("r", "oft_block_size", "block_share", "coft", "eps", "use_cayley_neumann", "num_cayley_neumann_terms",
              "init_weights"),
    )
)  # fmt: skip


def _read_boft(saved: Saved, name: str):
    places = saved.places(".boft_R")
    stored = {p: saved.tensors[f"{saved.modules.prefix}{saved.modules.names[p]}.boft_R"].shape for p in places}
    blocks = {f"model/{place}": shape[2] for place, shape in stored.items()}
    factors = {shape[0] for shape in stored.values()}
    if len(factors) != 1:
        raise ValueError(f"boft_R has {sorted(factors)} butterfly factors on different modules; they must be the same")
    return boft(max(blocks.values()), factors.pop(), exactly(places), blocks=blocks, name=name)


def _describe_boft(holders, modules):
    shapes = {held.rotation.shape for held in holders.values()}
    edges, counts, factors = ({shape[axis] for shape in shapes} for axis in (2, 1, 0))
    if len(factors) > 1 or (len(edges) > 1 and len(counts) > 1):
        raise ValueError(f"peft's BOFT has one block edge or one number of blocks for all, not edges {sorted(edges)}")
    one = len(edges) == 1
    size = {"boft_block_size": edges.pop() if one else 0, "boft_block_num": 0 if one else counts.pop()}
    return {**size, "boft_n_butterfly_factor": factors.pop(), "target_modules": modules.targets(holders)}


_pack_boft, _unpack_boft = per_projection(
    {"rotation": Field("boft_R"), "scale": Field("boft_s", shape=lambda held: (held.scale.shape[0], 1))}
)
register_format(
    PeftFormat(
        "BOFT",
        "transfer.boft",
        (Butterfly,),
        method=_read_boft,
        describe=_describe_boft,
        pack=_pack_boft,
        unpack=_unpack_boft,
        used=("boft_block_size", "boft_block_num", "boft_n_butterfly_factor", "init_weights"),
    )
)


def _read_hra(saved: Saved, name: str):
    places = saved.places(".hra_u")
    ranks = {saved.tensors[f"{saved.modules.prefix}{saved.modules.names[p]}.hra_u"].shape[1] for p in places}
    if len(ranks) != 1:
        raise ValueError(f"hra_u has {sorted(ranks)} directions on different modules; they must be as many")
    return reflections(ranks.pop(), exactly(places), (), bool(saved.config.get("apply_GS")), name)


def _describe_hra(holders, modules):
    held = next(iter(holders.values()))
    return {"r": held.u.shape[1], "apply_GS": held.orthogonal, "target_modules": modules.targets(holders)}


_pack_hra, _unpack_hra = per_projection({"u": Field("hra_u")})
register_format(
    PeftFormat(
        "HRA",
        "transfer.hra",
        (Reflected,),
        method=_read_hra,
        describe=_describe_hra,
        pack=_pack_hra,
        unpack=_unpack_hra,
        used=("r", "apply_GS", "init_weights"),
    )
)
