"""Members whose low-rank updates have different ranks, in one program."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp

from ft_jax.core.adapters import map_operators
from ft_jax.core.catalogue import Neutral, register
from ft_jax.core.method import Method
from ft_jax.core.program import Program
from ft_jax.core.weights import LowRank


@register(
    "ensemble",
    paper="Hu et al. 2021, arXiv:2106.09685 (LoRA); a mask over the rank as in Valipour et al. 2023, arXiv:2210.07558",
    example=lambda problem: ranks(2),
    neutral=Neutral({"rank": 1e6}),
)
def ranks(rank: int | Sequence[int], of: str | None = None, *, name: str = "ensemble.ranks") -> Method:
    """Shows the first `rank` columns of each low-rank update, at the strength of a LoRA of that rank.

    A sequence gives each member its own: ``compose(ranks((2, 4, 8)), members(3), lora(rank=8))`` trains LoRAs of ranks
    2, 4 and 8 in one program under the maximum 8. The others' columns are read by nothing and learn nothing, so a
    member is a LoRA of its rank exactly.

    Args:
      rank: of this run, or one for each member; data in ``hyper``.
      of: the name of the method whose updates they are; all low-rank updates where None.
      name: the method's name.

    Raises:
      ValueError: a rank below 1; when the state is made, another number of ranks than members.

    Example:
      >>> ranks((2, 4)).hyper
      {'rank': 4}
    """
    several = None if isinstance(rank, int) else tuple(rank)
    if min((rank,) if several is None else several, default=0) < 1:
        raise ValueError(f"{name} got ranks {rank}; give at least one, each at least 1")

    def view(params, context):
        shown = context.hyper[name]["rank"]

        def cut(weight):
            if not isinstance(weight, LowRank):
                return weight
            most = weight.a.shape[-1]
            own = jnp.minimum(shown, most)
            kept = (jnp.arange(most) < own).astype(weight.a.dtype)
            return dataclasses.replace(weight, a=weight.a * kept, scale=weight.scale * most / own)

        return {**params, "model": map_operators(cut, params["model"], of)}

    def lift(program: Program, build) -> Program:
        def init(params, key):
            state = program.init(params, key)
            if several is None:
                return state
            old = state.hyper[name]["rank"]
            if old.shape[:1] != (len(several),):
                raise ValueError(
                    f"{name} has {len(several)} ranks for {old.shape[0] if old.ndim else 'no'} members; name it before "
                    "members(count) with one for each"
                )
            column = jnp.asarray(several, old.dtype).reshape(-1, *(1,) * (old.ndim - 1))
            hyper = {**state.hyper, name: {**state.hyper[name], "rank": jnp.broadcast_to(column, old.shape)}}
            return state.replace(hyper=hyper)

        return dataclasses.replace(program, init=init)

    return Method(
        name=name,
        hyper={"rank": max((rank,) if several is None else several)},
        view=view,
        lift=lift if several else None,
    )
