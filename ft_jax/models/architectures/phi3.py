"""Phi-3: Llama with query, key and value in one tensor, gate and up in another, and long rotary positions."""

from ft_jax.models.architectures.decoder_json import decoder_architecture
from ft_jax.models.architectures.llama import norms
from ft_jax.models.architectures.naming import Part, Tensor, norm, projection
from ft_jax.models.architectures.rope_json import rope_entry
from ft_jax.models.networks.decoder_config import DecoderConfig


def _read(json):
    share = (json.get("rope_parameters") or {}).get("partial_rotary_factor", json.get("partial_rotary_factor", 1.0))
    head_width = json["hidden_size"] // json["num_attention_heads"]
    return {
        "rotary_width": None if share == 1.0 else int(head_width * share),
        "window": json.get("sliding_window"),
        "dropout": json.get("resid_pdrop", 0.0),
        "embedding_dropout": json.get("embd_pdrop", 0.0),
    }


def _write(config: DecoderConfig):
    share = (config.rotary_width or config.head_width) / config.head_width
    entry = rope_entry(config.rope_theta, config.rope_scaling) | {"partial_rotary_factor": share}
    original = config.positions if config.rope_scaling is None else config.rope_scaling.original_positions
    # transformers 4 wants nothing but these in rope_scaling.
    older = {"type": "longrope"} | {name: entry.get(name) for name in ("short_factor", "long_factor")}
    return {
        "partial_rotary_factor": share,
        "rope_parameters": entry,
        "rope_scaling": None if config.rope_scaling is None else older,
        "original_max_position_embeddings": original,
        "sliding_window": config.window,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.embedding_dropout,
    }


def tensors(config: DecoderConfig) -> dict[str, Tensor]:
    """Every parameter's tensor in a Phi-3 checkpoint."""
    table = {"embeddings/tokens": Tensor("model.embed_tokens.weight")}
    queries, keys = config.heads * config.head_width, config.key_value_heads * config.head_width
    fused = {
        "attention": ("self_attn.qkv_proj", ("query", "key", "value"), (queries, keys, keys)),
        "mlp": ("mlp.gate_up_proj", ("gate", "up"), (config.mlp_width,) * 2),
    }
    for i in range(config.layers):
        ours, theirs = f"layers/{i}", f"model.layers.{i}"
        table |= norms(config, ours, theirs)
        for block, (name, parts, sizes) in fused.items():
            for index, part in enumerate(parts):
                stored = Tensor(f"{theirs}.{name}.weight", transposed=True, part=Part(index, sizes))
                table[f"{ours}/{block}/{part}/kernel"] = stored
        table |= projection(f"{ours}/attention/output", f"{theirs}.self_attn.o_proj", bias=False)
        table |= projection(f"{ours}/mlp/down", f"{theirs}.mlp.down_proj", bias=False)
    table |= norm("norm", "model.norm", bias=False)
    if not config.tied:
        table["head/kernel"] = Tensor("lm_head.weight", transposed=True)
    return table


PHI3 = decoder_architecture(
    "phi3",
    "Phi3ForCausalLM",
    _read,
    _write,
    tensors,
    {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096},
)
