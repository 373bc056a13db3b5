"""Gemma 1, 2 and 3 (text): norms that scale by ``1 + stored``, scaled embeddings, and from 2 on windows and caps."""

from ft_jax.models.architectures import gguf_decoders, llama
from ft_jax.models.architectures.decoder_json import decoder_architecture, layer_kinds, layer_types, read_activation
from ft_jax.models.architectures.rope_json import read_rope, rope_entry


def _gemma(json):
    if json.get("use_bidirectional_attention"):
        raise ValueError("config.json has use_bidirectional_attention set, which makes an encoder; not known here")
    biases = bool(json.get("attention_bias", False))
    # The first checkpoints say "gelu" and mean the tanh approximation.
    act = json.get("hidden_activation") or {"gelu": "gelu_pytorch_tanh"}.get(json["hidden_act"], json["hidden_act"])
    return {
        "biases": biases,
        "output_bias": biases,
        "activation": read_activation(act, "hidden_activation"),
        "embedding_scale": float(json["hidden_size"]) ** 0.5,
    }


def _write_gemma(config):
    act = "gelu_pytorch_tanh" if config.activation == "gelu_tanh" else config.activation
    return {"attention_bias": config.biases, "hidden_activation": act, "hidden_act": act}


def _gemma2(json):
    types = ["full_attention" if i % 2 else "sliding_attention" for i in range(json["num_hidden_layers"])]
    return {
        **_gemma(json),
        "post_norms": True,
        "attention_scale": float(json["query_pre_attn_scalar"]) ** -0.5,
        "attention_softcap": json["attn_logit_softcapping"],
        "logit_softcap": json["final_logit_softcapping"],
        **layer_kinds(json, types),
    }


def _write_gemma2(config):
    scale = config.attention_scale or config.head_width**-0.5
    return {
        **_write_gemma(config),
        "query_pre_attn_scalar": round(scale**-2) if abs(scale**-2 - round(scale**-2)) < 1e-6 else scale**-2,
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
        "sliding_window": config.window,
        "layer_types": layer_types(config),
    }


def _gemma3(json):
    if "text_config" in json:
        raise ValueError(
            "config.json is that of the vision-language Gemma 3; its text model alone has model_type 'gemma3_text'"
        )
    every = json.get("sliding_window_pattern", 6)
    types = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(json["num_hidden_layers"])]
    theta, scaling = read_rope(json, "full_attention")
    local, local_scaling = read_rope({"rope_parameters": json.get("rope_parameters")}, "sliding_attention")
    if local_scaling is not None:
        raise ValueError("config.json scales the rotary positions of windowed layers, which is not known here")
    nested = "sliding_attention" in (json.get("rope_parameters") or {})
    return {
        **_gemma2({**json, "layer_types": json.get("layer_types") or types}),
        "query_key_norms": True,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "local_rope_theta": local if nested else json["rope_local_base_freq"],
    }


def _write_gemma3(config):
    full = rope_entry(config.rope_theta, config.rope_scaling)
    windowed = rope_entry(config.local_rope_theta or config.rope_theta, None)
    return {
        **_write_gemma2(config),
        "rope_parameters": {"full_attention": full, "sliding_attention": windowed},
        "rope_local_base_freq": windowed["rope_theta"],
    }


def tensors(config):
    """Every parameter's tensor in a Gemma checkpoint."""
    return llama.tensors(config, offset=1.0)


DEFAULTS = {
    "tie_word_embeddings": True,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "hidden_act": "gelu_pytorch_tanh",
}

GEMMA = decoder_architecture("gemma", "GemmaForCausalLM", _gemma, _write_gemma, tensors, DEFAULTS)

GEMMA2 = decoder_architecture(
    "gemma2",
    "Gemma2ForCausalLM",
    _gemma2,
    _write_gemma2,
    tensors,
    DEFAULTS | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
)

GEMMA3 = decoder_architecture(
    "gemma3_text",
    "Gemma3ForCausalLM",
    _gemma3,
    _write_gemma3,
    tensors,
    DEFAULTS | {"rope_theta": 1e6, "rope_local_base_freq": 10000.0, "max_position_embeddings": 131072},
    also=("gemma3",),
    read_gguf=gguf_decoders.read_gemma3,
    gguf=gguf_decoders.gemma3,
)
