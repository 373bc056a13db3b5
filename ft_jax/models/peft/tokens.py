"""Tokens whose embeddings learn beside a LoRA: peft's ``trainable_token_indices`` in the files of another kind.

A file holds both; here they are two methods, of which the second is that of peft's kind for such tokens alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ft_jax.models.peft.holders import Holders
from ft_jax.models.peft.modules import TABLES, Modules
from ft_jax.models.peft.tied import check_tied
from ft_jax.outside import printable

KIND = "TRAINABLE_TOKENS"
FIELD = "trainable_token_indices"
_INSIDE, _DELTA = ".token_adapter.trainable_tokens_delta", ".trainable_tokens_delta"


def tokens_apart(
    stored: Mapping[str, np.ndarray], config: Mapping[str, Any], modules: Modules, folder: Path
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """A file's tensors without those of its tokens; these, as a file of `KIND` has them; and its configuration.

    Raises:
      ValueError: tokens without tensors, or tensors of a module that the model has no table for.
    """
    told = config.get(FIELD)
    if not told:
        return dict(stored), {}, {}
    table = next((place for place in TABLES if place in modules.names), None)
    by_name = {modules.names[place]: place for place in modules.names if place not in modules.parts}
    indices, own = {}, {}
    for key in (key for key in stored if key.endswith(_INSIDE)):
        module = key.removeprefix(modules.prefix).removesuffix(_INSIDE)
        place = by_name.get(module)
        given = told if isinstance(told, list) else _of(module, told)
        if place is None or given is None:
            tied = modules.copied is not None and modules.copied.startswith(f"{module}.")
            why = (
                "is tied to the table of tokens here and has other tokens; load it for models.untied(model)"
                if tied
                else f"is no table of this model, the nearest is {modules.names.get(table)}"
            )
            raise ValueError(f"{folder} has tokens of {printable(module)}, which {why}")
        indices[place] = given
        own[f"{modules.prefix}{module}{_DELTA}"] = stored[key]
    if not own:
        raise ValueError(f"{folder} says {FIELD} and has no tensor of them; is the file complete?")
    rest = {key: x for key, x in stored.items() if not key.endswith(_INSIDE)}
    return rest, own, {"peft_type": KIND, "token_indices": indices}


def _of(module: str, told: Mapping[str, Any]):
    """The tokens of a module by its name's end."""
    return next((given for name, given in told.items() if f".{module}".endswith(f".{name}")), None)


def tokens_beside(holders: Holders, tensors: Mapping[str, Any], modules: Modules) -> tuple[dict[str, Any], dict]:
    """The tensors of `KIND` under their names beside a LoRA, and the field that says which tokens they are.

    Raises:
      ValueError: tokens of a table that peft would untie.
    """
    if not holders:
        return {}, {}
    check_tied(next((place for place in TABLES if place in holders), None), modules)
    inside = {name.removesuffix(_DELTA) + _INSIDE: x for name, x in tensors.items()}
    return inside, {FIELD: {modules.names[place]: list(held.indices) for place, held in holders.items()}}
