"""Decoders that name their tensors as Llama does: Llama, Mistral, Qwen, SmolLM and the mixtures of experts."""

import dataclasses

from ft_jax.models.architectures import gguf_decoders
from ft_jax.models.architectures.decoder_json import decoder_architecture, layer_kinds, layer_types
from ft_jax.models.architectures.naming import FREQUENCIES, Tensor, norm, projection, renamed, required
from ft_jax.models.networks.decoder_config import DecoderConfig


def tensors(config: DecoderConfig, offset: float = 0.0) -> dict[str, Tensor]:
    """Every parameter's tensor in a checkpoint with Llama's names; `offset` is that of the norms' scales."""
    table = {"embeddings/tokens": Tensor("model.embed_tokens.weight")}
    for i in range(config.layers):
        ours, theirs = f"layers/{i}", f"model.layers.{i}"
        table |= norms(config, ours, theirs, offset)
        for part, name in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
            table |= projection(f"{ours}/attention/{part}", f"{theirs}.self_attn.{name}", config.biases)
        table |= projection(f"{ours}/attention/output", f"{theirs}.self_attn.o_proj", config.output_bias)
        if config.query_key_norms:
            for part, name in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
                table |= norm(f"{ours}/attention/{part}", f"{theirs}.self_attn.{name}", bias=False, offset=offset)
        if config.experts is None:
            for part in ("gate", "up", "down"):
                table |= projection(f"{ours}/mlp/{part}", f"{theirs}.mlp.{part}_proj", config.mlp_biases)
    table |= norm("norm", "model.norm", bias=False, offset=offset)
    if not config.tied:
        table["head/kernel"] = Tensor("lm_head.weight", transposed=True)
    return table


def norms(config: DecoderConfig, ours: str, theirs: str, offset: float = 0.0) -> dict[str, Tensor]:
    """The norms of a layer; with `config.post_norms`, under Gemma 2's names."""
    names = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
    if config.post_norms:
        names |= {
            "attention_post_norm": "post_attention_layernorm",
            "mlp_norm": "pre_feedforward_layernorm",
            "mlp_post_norm": "post_feedforward_layernorm",
        }
    table = {}
    for part, name in names.items():
        table |= norm(f"{ours}/{part}", f"{theirs}.{name}", bias=False, offset=offset)
    return table


def _llama(json):
    biases = bool(json.get("attention_bias", False))
    return {"biases": biases, "output_bias": biases, "mlp_biases": bool(json.get("mlp_bias", False))}


def _write_llama(config):
    return {"attention_bias": config.biases, "mlp_bias": config.mlp_biases}


def _window(json):
    return {} if json.get("sliding_window") is None else {"window": json["sliding_window"]}


def _late_windows(json):
    """Qwen's windows: from layer ``max_window_layers`` on, if ``use_sliding_window`` is set."""
    count, first = json["num_hidden_layers"], json.get("max_window_layers", 28)
    types = ["sliding_attention" if i >= first else "full_attention" for i in range(count)]
    return layer_kinds(json, types) if json.get("use_sliding_window") else {}


def _write_windows(config):
    used = config.window is not None
    return {"use_sliding_window": used, "sliding_window": config.window, "layer_types": layer_types(config)}


def _qwen2(json):
    return {"biases": True, "output_bias": False, "mlp_biases": False, **_late_windows(json)}


def _qwen3(json):
    biases = bool(json.get("attention_bias", False))
    return {"biases": biases, "output_bias": biases, "query_key_norms": True, **_late_windows(json)}


def _write_qwen3(config):
    return {"attention_bias": config.biases, **_write_windows(config)}


def _smollm3(json):
    count, every = json["num_hidden_layers"], json.get("no_rope_layer_interval", 4)
    turned = json.get("no_rope_layers") or [int((i + 1) % every != 0) for i in range(count)]
    types = ["full_attention" if turns else "sliding_attention" for turns in turned]
    kinds = layer_kinds(json, types) if json.get("use_sliding_window") else {}
    return {**_llama(json), "rotary": tuple(map(bool, turned)), **kinds}


def _write_smollm3(config):
    turned = [int(config.rotary[i % len(config.rotary)]) for i in range(config.layers)]
    return {**_write_llama(config), **_write_windows(config), "no_rope_layers": turned}


def _mixtral(json):
    return {
        "experts": required(json, "num_local_experts", "config.json"),
        "experts_per_token": json["num_experts_per_tok"],
        **_window(json),
    }


def _write_mixtral(config):
    return {
        "num_local_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "sliding_window": config.window,
    }


def _qwen3_moe(json):
    if json.get("decoder_sparse_step", 1) != 1 or json.get("mlp_only_layers"):
        raise ValueError(
            "config.json has layers without experts (decoder_sparse_step or mlp_only_layers); only mixtures whose "
            "layers all have experts are known"
        )
    biases = bool(json.get("attention_bias", False))
    return {
        "biases": biases,
        "output_bias": biases,
        "query_key_norms": True,
        "mlp_width": json["moe_intermediate_size"],
        # transformers 5 says num_local_experts, 4 says num_experts.
        "experts": json.get("num_local_experts") or required(json, "num_experts", "config.json"),
        "experts_per_token": json["num_experts_per_tok"],
        "normalised_router": bool(json.get("norm_topk_prob", False)),
        **(_window(json) if json.get("use_sliding_window") else {}),
    }


def _write_qwen3_moe(config):
    return {
        "attention_bias": config.biases,
        "moe_intermediate_size": config.mlp_width,
        "num_experts": config.experts,
        "num_local_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "norm_topk_prob": config.normalised_router,
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _expert_tensors(block: str, names: dict[str, str]):
    """The table of a mixture whose router and experts are at ``<layer>.<block>``, the experts' parts under `names`."""

    def table(config):
        entries = tensors(config)
        for i in range(config.layers):
            ours, theirs = f"layers/{i}/mlp", f"model.layers.{i}.{block}"
            entries |= projection(f"{ours}/router", f"{theirs}.gate", bias=False)
            for part, name in names.items():
                first, *more = (f"{theirs}.experts.{e}.{name}.weight" for e in range(config.experts))
                entries[f"{ours}/experts/{part}/kernel"] = Tensor(first, transposed=True, more=tuple(more))
        return entries

    return table


LLAMA = decoder_architecture(
    "llama",
    "LlamaForCausalLM",
    _llama,
    _write_llama,
    tensors,
    unread=(FREQUENCIES,),
    read_gguf=gguf_decoders.read_llama,
    gguf=gguf_decoders.interleaved,
)

MISTRAL = decoder_architecture(
    "mistral",
    "MistralForCausalLM",
    _window,
    lambda config: {"sliding_window": config.window},
    tensors,
    {"sliding_window": 4096, "max_position_embeddings": 131072},
)

QWEN2 = decoder_architecture(
    "qwen2",
    "Qwen2ForCausalLM",
    _qwen2,
    _write_windows,
    tensors,
    {"sliding_window": 4096, "max_position_embeddings": 32768},
    read_gguf=gguf_decoders.read_qwen2,
    gguf=gguf_decoders.plain,
)

QWEN3 = decoder_architecture(
    "qwen3",
    "Qwen3ForCausalLM",
    _qwen3,
    _write_qwen3,
    tensors,
    {"sliding_window": 4096, "head_dim": 128, "max_position_embeddings": 32768},
    read_gguf=gguf_decoders.read_qwen3,
    gguf=gguf_decoders.plain,
)

SMOLLM3 = decoder_architecture(
    "smollm3",
    "SmolLM3ForCausalLM",
    _smollm3,
    _write_smollm3,
    tensors,
    {"rope_theta": 2000000.0, "tie_word_embeddings": True, "max_position_embeddings": 32768},
)

MIXTRAL = dataclasses.replace(
    decoder_architecture(
    "mixtral",
    "MixtralForCausalLM",
    _mixtral,
    _write_mixtral,
    _expert_tensors("block_sparse_moe", {"gate": "w1", "down": "w2", "up": "w3"}),
    {"rms_norm_eps": 1e-5, "rope_theta": 1e6, "num_local_experts": 8, "num_experts_per_tok": 2,
     "max_position_embeddings": 131072},
    ),
    modules=renamed((r"\.block_sparse_moe\.", ".mlp.")),
)  # fmt: skip

QWEN3_MOE = decoder_architecture(
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    _qwen3_moe,
    _write_qwen3_moe,
    _expert_tensors("mlp", {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}),
    {"sliding_window": 4096, "moe_intermediate_size": 768, "num_experts_per_tok": 8,
     "max_position_embeddings": 32768},
)  # fmt: skip
