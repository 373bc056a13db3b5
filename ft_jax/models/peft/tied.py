"""Tables of tokens that a model uses twice and peft unties: what stands on one is written for both and read as one.

Peft changes modules, and a tied unembedding is a module of its own there: an adapter of the embeddings, or embeddings
that learn in full, leave it as it was. Here the one table is used for both.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax.models.architectures import Tensor, flat
from ft_jax.models.peft.holders import Holders
from ft_jax.models.peft.modules import TABLES, Modules
from ft_jax.outside import printable

TIED = "tied/kernel"
"""The place of the unembedding, which is no parameter here."""

TOKENS = "trainable_tokens_delta"
"""The rows of a few tokens, which peft ties by itself."""

BARE = ("lm_head.weight", "proj_out.weight")
"""Unembeddings that are a table alone; others have a bias beside it, or share it with more than one module."""


def written_twice(
    holders: Holders, whole: Mapping[str, Any], modules: Modules, alike: bool = False
) -> tuple[Holders, Modules, dict[str, Any]]:
    """What stands on a tied table, for its second module as well.

    Args:
      holders: of the adapter.
      whole: the leaves that learned in full.
      modules: of the model.
      alike: whether peft ties what stands on both modules, so that the file says it twice as it is.

    Returns:
      The operators, with that of the unembedding; the modules, which know it; and by the name of a tensor the array of
      a table that learned in full.

    Raises:
      ValueError: where the table is shared in another way than peft could be told.
    """
    table = next((path for path in TABLES if path in holders or path in whole), None)
    if table is None or modules.copied is None:
        return holders, modules, {}
    check_tied(table, modules)
    if table in whole:
        return holders, modules, {f"{modules.prefix}{modules.copied}": whole[table]}
    tensors = {**modules.tensors, TIED: Tensor(modules.copied, transposed=True)}
    known = dataclasses.replace(modules, tensors=tensors, names={**modules.names, TIED: _module(modules.copied)})
    holder = holders[table]
    if alike:
        return {**holders, TIED: holder}, known, {}
    if not hasattr(holder, "a") or not hasattr(holder, "b") or hasattr(holder, "magnitude"):
        raise ValueError(
            f"{table} is used for the unembedding as well, where peft has no adapter that is a {type(holder).__name__} "
            "turned round; use LoRA there"
        )
    return {**holders, TIED: dataclasses.replace(holder, a=holder.b.T, b=holder.a.T)}, known, {}


def read_once(
    stored: Mapping[str, np.ndarray], config: Mapping[str, Any], modules: Modules, model, folder: Path
) -> dict[str, np.ndarray]:
    """The tensors of a file without those of the second module of a tied table, once they are seen to say the same.

    Raises:
      ValueError: where the file changes the two apart.
    """
    table = next((path for path in TABLES if path in modules.names), None)
    if table is None or modules.copied is None:
        return dict(stored)
    first, second = (f"{modules.prefix}{name}." for name in (modules.names[table], _module(modules.copied)))
    one = {key.removeprefix(first): x for key, x in stored.items() if key.startswith(first)}
    other = {key.removeprefix(second): x for key, x in stored.items() if key.startswith(second)}
    tied = config.get("ensure_weight_tying") or all(name.endswith(TOKENS) for name in one)
    if not (one or other) or (not other and tied):
        return dict(stored)
    base = one.get("base_layer.weight", flat(model.params)[table])
    wanted = {"base_layer.weight": base} if "base_layer.weight" in other else {}
    for name, x in one.items():
        turned = {"lora_embedding_A": "lora_B.weight", "lora_embedding_B": "lora_A.weight"}.get(name)
        if turned is not None:
            wanted[turned] = x.T
        elif name != "base_layer.weight":
            wanted[name] = x
    alike = wanted.keys() == other.keys() and all(np.array_equal(wanted[name], other[name]) for name in wanted)
    own = getattr(model.config, "language", model.config)
    remedy = (
        "load it for models.untied(model)" if hasattr(own, "tied") else "merge it with peft and load the whole model"
    )
    if not alike:
        raise ValueError(
            f"{folder} has other numbers for {printable(modules.names[table])} than for "
            f"{printable(_module(modules.copied))}, which this model ties and peft does not; {remedy}"
        )
    return {key: x for key, x in stored.items() if not key.startswith(second)}


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def check_tied(table: str | None, modules: Modules) -> None:
    """Raises ValueError where a table that learns is shared in another way than peft could be told."""
    if table is None or modules.copied is None:
        return
    if modules.copied not in BARE:
        raise ValueError(
            f"{table} learns and {printable(modules.copied)} is tied to it, which peft would untie without its bias or "
            "others that share it; leave it out, or merge the adapter and save the whole model"
        )
