"""Between config.json and `DecoderConfig`: what all families of decoders share."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ft_jax.models.architectures.naming import Architecture, PublishedHead, Tensor, head_tensors, required
from ft_jax.models.architectures.rope_json import read_rope, write_rope
from ft_jax.models.networks.decoder_config import DecoderConfig, shortest
from ft_jax.outside import printable

ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
PUBLISHED = {"gelu_tanh": "gelu_pytorch_tanh"}

FREE = ("family", "dropout", "embedding_dropout", "attention_dropout", "dtype", "remat", "scan", "collect")
"""Fields that may be anything for a published architecture to fit."""

DEFAULTS = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
"""What config.json means where it says nothing, for most families."""


def decoder_architecture(
    model_type: str,
    class_name: str,
    read: Callable[[Mapping[str, Any]], dict[str, Any]],
    write: Callable[[DecoderConfig], dict[str, Any]],
    tensors: Callable[[DecoderConfig], dict[str, Tensor]],
    defaults: Mapping[str, Any] = {},
    *,
    also: tuple[str, ...] = (),
    whole: bool = False,
    prefix: str = "",
    unread: tuple[str, ...] = (),
    read_gguf: Callable | None = None,
    gguf: Callable | None = None,
) -> Architecture:
    """An architecture whose config.json has the entries that `shared` reads, and some of its own.

    Args:
      model_type: its name in config.json.
      class_name: transformers' class for it.
      read: config.json, with the defaults filled in, to the fields of `DecoderConfig` that are the family's own.
      write: the inverse.
      tensors: its tensors' names.
      defaults: what config.json means where it says nothing, where it isn't `DEFAULTS`.
      also: further names, such as GGUF's.
      whole: whether `read` and `write` speak of all fields, not only the family's own.
      prefix, unread, read_gguf, gguf: of `Architecture`.
    """

    def read_config(json, names):
        json = {**DEFAULTS, **defaults, **json}
        fields = read(json) if whole else shared(json) | read(json)
        return DecoderConfig(**fields, family=model_type)

    def write_config(config):
        json = {} if whole else write_shared(config)
        named = {"architectures": [class_name], "model_type": model_type, "torch_dtype": "float32"}
        return json | write(config) | named

    def fits(config):
        if not isinstance(config, DecoderConfig) or config.family not in (None, model_type):
            return False
        try:
            return _essence(read_config(write_config(config), set())) == _essence(config)
        except (ValueError, TypeError, KeyError):
            return False

    return Architecture(
        model_types=(model_type, *also),
        read=read_config,
        write=write_config,
        tensors=tensors,
        prefix=prefix,
        unread=("rotary_emb.inv_freq", "lm_head.weight", *unread),
        fits=fits,
        read_gguf=read_gguf,
        gguf=gguf,
        copies={"lm_head.weight": "embeddings/tokens"},
        heads=lambda config: decoder_heads(class_name),
    )


def decoder_heads(class_name: str) -> tuple[PublishedHead, ...]:
    """A classifier of the last token without a bias, and one of every token, beside a class for language models.

    Example:
      >>> sorted({head.class_name for head in decoder_heads("LlamaForCausalLM")})
      ['LlamaForSequenceClassification', 'LlamaForTokenClassification']
    """
    name = class_name.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    text, token = {"Gemma3": ("Gemma3Text", ""), "GPT2": ("GPT2", "classifier")}.get(name, (name, "score"))
    heads = [
        PublishedHead(f"{text}ForSequenceClassification", kind, "last", head_tensors("score", False), bias=False)
        for kind in ("classification", "reward")
    ]
    if token:
        heads.append(PublishedHead(f"{text}ForTokenClassification", "token_classification", None, head_tensors(token)))
    return tuple(heads)


def _essence(config):
    """What must be equal for two configurations to be the same network."""
    default = {field.name: field.default for field in dataclasses.fields(config) if field.name in FREE}
    kinds = [config.kind(layer) for layer in range(config.layers)]
    return dataclasses.replace(config, **default, windowed=(True,), rotary=(True,)), kinds


def shared(json: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are read alike for every family with rotary positions."""
    theta, scaling = read_rope(json)
    width, heads = required(json, "hidden_size", "config.json"), required(json, "num_attention_heads", "config.json")
    return {
        "vocabulary": required(json, "vocab_size", "config.json"),
        "width": width,
        "layers": required(json, "num_hidden_layers", "config.json"),
        "heads": heads,
        "key_value_heads": json.get("num_key_value_heads") or heads,
        "head_width": json.get("head_dim") or width // heads,
        "mlp_width": required(json, "intermediate_size", "config.json"),
        "positions": json["max_position_embeddings"],
        "rope_theta": theta,
        "rope_scaling": scaling,
        "tied": bool(json["tie_word_embeddings"]),
        "activation": read_activation(json["hidden_act"], "hidden_act"),
        "epsilon": json["rms_norm_eps"],
        "attention_dropout": json.get("attention_dropout") or 0.0,
    }


def write_shared(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `shared`."""
    return {
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.positions,
        "tie_word_embeddings": config.tied,
        "hidden_act": PUBLISHED.get(config.activation, config.activation),
        "rms_norm_eps": config.epsilon,
        "attention_dropout": config.attention_dropout,
        **write_rope(config),
    }


def read_activation(name: str, field: str) -> str:
    """This library's name of an activation.

    Raises:
      ValueError: where it is unknown.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"config.json has {field} {printable(name)}; known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def layer_kinds(json: Mapping[str, Any], types: Sequence[str]) -> dict[str, Any]:
    """The fields ``window`` and ``windowed`` of layers that are windowed or not.

    Args:
      json: config.json, whose ``layer_types`` count before `types`.
      types: of each layer, ``"sliding_attention"`` or ``"full_attention"``, where config.json has none.

    Raises:
      ValueError: on another type of layer, or as many types as there are no layers.
    """
    types, count = json.get("layer_types") or types, json["num_hidden_layers"]
    unknown = sorted(set(types) - {"sliding_attention", "full_attention"})
    if unknown:
        raise ValueError(
            f"config.json has layers of type {printable(unknown[0])}; known are 'full_attention' and "
            "'sliding_attention'"
        )
    if len(types) != count:
        raise ValueError(f"config.json has {count} layers and {len(types)} layer_types; they must be as many")
    windowed = [kind == "sliding_attention" for kind in types]
    if json.get("sliding_window") is None or not any(windowed):
        return {}
    return {"window": json["sliding_window"], "windowed": shortest(windowed)}


def layer_types(config: DecoderConfig) -> list[str]:
    """The ``layer_types`` that `layer_kinds` reads."""
    return ["sliding_attention" if config.kind(layer)[0] else "full_attention" for layer in range(config.layers)]
