"""The embeddings of a few tokens, alone or beside a LoRA."""

from ft_jax.models.peft.fields import Field, per_projection
from ft_jax.models.peft.formats import PeftFormat, Saved, register_format
from ft_jax.models.peft.tied import TIED
from ft_jax.models.peft.tokens import KIND
from ft_jax.transfer.trainable_tokens import Rows, trainable_tokens

_DELTA = "trainable_tokens_delta"


def _read(saved: Saved, name: str):
    places, told = saved.places(f".{_DELTA}"), saved.config.get("token_indices") or []
    if isinstance(told, dict):
        return trainable_tokens({f"model/{place}": told[place] for place in places}, name=name)
    return trainable_tokens({f"model/{place}": told for place in places}, name=name)


def _describe(holders, modules):
    told = {held.indices for held in holders.values()}
    if len(told) > 1:
        raise ValueError(
            f"peft's {KIND} has the same tokens for all tables, not {sorted(map(list, told))}; save it beside a LoRA, "
            "which has tokens for each"
        )
    names = sorted(modules.names[place] for place in holders if place != TIED)
    return {"token_indices": list(told.pop()), "target_modules": names}


_pack, _unpack = per_projection({"rows": Field(_DELTA, table=_DELTA)})
register_format(
    PeftFormat(
        KIND,
        "transfer.trainable_tokens",
        (Rows,),
        method=_read,
        describe=_describe,
        pack=_pack,
        unpack=_unpack,
        used=("token_indices", "init_weights"),
        tied=True,
    )
)
