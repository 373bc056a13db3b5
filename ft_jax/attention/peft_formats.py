"""The attention methods in peft's files."""

import dataclasses

import jax.numpy as jnp

from ft_jax.attention.ia3 import ia3
from ft_jax.attention.llama_adapter import AdaptionPrompt, llama_adapter
from ft_jax.attention.prefix import Prefix, Shift, prefix_tuning
from ft_jax.attention.prompts import EncodedPrompt, Prompt, p_tuning, prompt_tuning
from ft_jax.core.grafts import by_number
from ft_jax.core.weights import Scaled
from ft_jax.models.peft.fields import Field, per_projection
from ft_jax.models.peft.files import Holders
from ft_jax.models.peft.formats import PeftFormat, Saved, register_format
from ft_jax.models.peft.fused import Fusing, concatenated, stretches

PROMPT = "prompt_embeddings"
VIRTUAL = ("num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers")


def _length(saved: Saved) -> int:
    """Virtual tokens: the rows of what is saved, which the configuration must not contradict."""
    rows = saved.tensors[PROMPT].shape[0] if PROMPT in saved.tensors else saved.config.get("num_virtual_tokens", 1)
    told = saved.config.get("num_virtual_tokens", rows)
    if rows == 2 * told and saved.config.get("num_transformer_submodules") == 2:
        raise ValueError(
            f"half of the adapter's {rows} virtual tokens stand before the decoder's answer, and this library's all "
            "before the encoder's text; train it with num_transformer_submodules=1"
        )
    if told != rows:
        raise ValueError(
            f"the adapter has {rows} virtual tokens and num_virtual_tokens says {told}; correct the configuration"
        )
    return rows


def _of_layers(holders: Holders) -> list[tuple[str, Prefix]]:
    """The prefixes in the order of the layers."""
    found = [(place, held) for place, held in holders.items() if isinstance(held, Prefix)]
    return sorted(found, key=lambda item: by_number(item[0]))


def _check_slides(holders: Holders) -> None:
    if any(held.always for held in holders.values()):
        raise ValueError(
            "virtual tokens stay in sight of a sliding window (always=True), and peft's slide out of it; save the "
            "run's checkpoint, or train with always=False"
        )


def _pack_prefix(holders, modules):
    _check_slides(holders)
    rows = [rows for _, held in _of_layers(holders) for rows in _rows(held)]
    return {PROMPT: jnp.concatenate(rows, axis=1)}


def _rows(held: Prefix):
    """Keys and values layer by layer; layers that run in one scan have theirs in one array."""
    if held.keys.ndim == 2:
        return [held.keys, held.values]
    return [rows for pair in zip(held.keys, held.values, strict=True) for rows in pair]


def _unpack_prefix(tensors, holders, modules):
    rows, filled, at = jnp.asarray(tensors[PROMPT], jnp.float32), dict(holders), 0
    for place, held in _of_layers(holders):
        pieces = []
        for own in _rows(held):
            pieces.append(rows[:, at : at + own.shape[1]])
            at += own.shape[1]
        pairs = [jnp.stack(pieces[part::2]).reshape(held.keys.shape) for part in (0, 1)]
        filled[place] = dataclasses.replace(held, keys=pairs[0], values=pairs[1])
    return filled


def _describe_prefix(holders, modules):
    keys = _of_layers(holders)[0][1].keys
    return {"num_virtual_tokens": keys.shape[-2], "token_dim": keys.shape[-1], "prefix_projection": False}


register_format(
    PeftFormat(
        "PREFIX_TUNING",
        "attention.prefix_tuning",
        (Prefix, Shift),
        method=lambda saved, name: prefix_tuning(_length(saved), name=name),
        describe=_describe_prefix,
        pack=_pack_prefix,
        unpack=_unpack_prefix,
        # What is saved is what the projection gave, so whether there was one is no longer of interest.
        used=(*VIRTUAL, "prefix_projection", "encoder_hidden_size", "init_weights"),
        virtual="keys",
    )
)


def _pack_prompt(holders, modules):
    _check_slides(holders)
    (held,) = holders.values()
    return {PROMPT: held.tokens}


def _unpack_prompt(tensors, holders, modules):
    return {
        place: dataclasses.replace(held, tokens=jnp.asarray(tensors[PROMPT], jnp.float32))
        for place, held in holders.items()
    }


def _describe_prompt(holders, modules):
    (held,) = holders.values()
    count, width = held.tokens.shape
    # One: before the text alone, where peft has another prompt of a decoder beside an encoder by default.
    return {"num_virtual_tokens": count, "token_dim": width, "num_transformer_submodules": 1}


def _read_encoded(saved: Saved, name: str):
    """The prompt that an encoder made; the file has no encoder, so the rows learn by themselves from here on."""
    return prompt_tuning(_length(saved), "random", name=name)


register_format(
    PeftFormat(
        "PROMPT_TUNING",
        "attention.prompt_tuning",
        (Prompt,),
        method=lambda saved, name: prompt_tuning(_length(saved), "random", name=name),
        describe=_describe_prompt,
        pack=_pack_prompt,
        unpack=_unpack_prompt,
        used=(
            *VIRTUAL, "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs",
        ),
        virtual="embeddings",
    )
)  # fmt: skip

register_format(
    PeftFormat(
        "P_TUNING",
        p_tuning().name,
        (EncodedPrompt,),
        method=_read_encoded,
        describe=_describe_prompt,
        pack=_pack_prompt,
        unpack=_unpack_prompt,
        used=(
            *VIRTUAL, "encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers", "encoder_dropout",
        ),
        virtual="embeddings",
    )
)  # fmt: skip


def _read_adaption(saved: Saved, name: str):
    if getattr(saved.model.config, "output_bias", True):
        raise ValueError(
            "peft's ADAPTION_PROMPT counts the bias of an attention's output projection twice, which this library does "
            "not; load it for a model without that bias, such as a Llama"
        )
    return llama_adapter(int(saved.config["adapter_len"]), int(saved.config["adapter_layers"]), name=name)


def _adaption_names(place: str, modules) -> dict[str, str]:
    layer = modules.layer(int(place.split("/")[1]))
    return {field: f"{modules.prefix}{layer}.self_attn.adaption_{field}" for field in ("prompt", "gate")}


def _pack_adaption(holders, modules):
    tensors = {}
    for place, held in holders.items():
        names = _adaption_names(place, modules)
        tensors |= {names["prompt"]: held.prompt[None], names["gate"]: held.gate.reshape(1)}
    return tensors


def _unpack_adaption(tensors, holders, modules):
    filled = {}
    for place, held in holders.items():
        names = _adaption_names(place, modules)
        prompt, gate = (jnp.asarray(tensors[names[field]][0], jnp.float32) for field in ("prompt", "gate"))
        filled[place] = dataclasses.replace(held, prompt=prompt, gate=gate)
    return filled


def _describe_adaption(holders, modules):
    held = next(iter(holders.values()))
    return {"adapter_len": held.prompt.shape[0], "adapter_layers": len(holders), "target_modules": "self_attn"}


register_format(
    PeftFormat(
        "ADAPTION_PROMPT",
        "attention.llama_adapter",
        (AdaptionPrompt,),
        method=_read_adaption,
        describe=_describe_adaption,
        pack=_pack_adaption,
        unpack=_unpack_adaption,
        used=("adapter_len", "adapter_layers"),
        needs=("adapter_len", "adapter_layers"),
    )
)


def _read_ia3(saved: Saved, name: str):
    sides: dict[str, list[str]] = {"outputs": [], "inputs": []}
    for place in saved.places(".ia3_l"):
        stored = saved.tensors[f"{saved.modules.prefix}{saved.modules.names[place]}.ia3_l"]
        sides["outputs" if stored.shape[1] == 1 else "inputs"].append(f"model/{place}")
    return ia3({side: tuple(places) for side, places in sides.items()}, name=name)


_pack_ia3, _unpack_ia3 = per_projection(
    {"scale": Field("ia3_l", shape=lambda held: (-1, 1) if held.side == "outputs" else (1, -1))}
)


def _join_ia3(parts, sizes, alike):
    """The scales of a whole module: side by side where outputs are scaled, one for all where inputs are."""
    present = [one for one in parts if one is not None]
    first = present[0]
    if first.side == "outputs":
        return dataclasses.replace(first, scale=concatenated(parts, "scale", sizes, 1.0))
    if not alike and (len(present) < len(parts) or any(not jnp.array_equal(first.scale, one.scale) for one in present)):
        raise ValueError(
            f"{first.owner} scales the inputs of parts of a module that is one in the checkpoint, each in its "
            "own way; peft's IA3 scales them once for all"
        )
    return first


def _cut_ia3(whole, own, part):
    return stretches("scale" if whole.side == "outputs" else "")(whole, own, part)


def _describe_ia3(holders, modules):
    inner = [place for place, held in holders.items() if held.side == "inputs"]
    return {
        "target_modules": modules.targets(holders),
        "feedforward_modules": modules.targets(inner) if inner else [],
    }


register_format(
    PeftFormat(
        "IA3",
        "attention.ia3",
        (Scaled,),
        method=_read_ia3,
        describe=_describe_ia3,
        pack=_pack_ia3,
        unpack=_unpack_ia3,
        used=("feedforward_modules", "init_ia3_weights"),
        fusing=Fusing(_join_ia3, _cut_ia3),
        turned=True,
    )
)
