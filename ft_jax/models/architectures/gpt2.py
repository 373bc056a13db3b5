"""GPT-2: learned positions, layer norms, an MLP without a gate, and query, key and value in one tensor."""

from ft_jax.models.architectures.decoder_json import PUBLISHED, decoder_architecture, read_activation
from ft_jax.models.architectures.naming import Part, Tensor, norm, required
from ft_jax.models.networks.decoder_config import DecoderConfig


def _read(json):
    for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        if json.get(name):
            raise ValueError(f"config.json has {name} set, which is not known here")
    width, heads = required(json, "n_embd", "config.json"), required(json, "n_head", "config.json")
    return {
        "vocabulary": required(json, "vocab_size", "config.json"),
        "width": width,
        "layers": required(json, "n_layer", "config.json"),
        "heads": heads,
        "key_value_heads": heads,
        "head_width": width // heads,
        "mlp_width": json.get("n_inner") or 4 * width,
        "positions": json.get("n_positions", 1024),
        "learned_positions": True,
        "norm": "layer",
        "epsilon": json.get("layer_norm_epsilon", 1e-5),
        "biases": True,
        "output_bias": True,
        "mlp_biases": True,
        "gated": False,
        "activation": read_activation(json.get("activation_function", "gelu_new"), "activation_function"),
        "tied": bool(json["tie_word_embeddings"]),
        "attention_scale": None if json.get("scale_attn_weights", True) else 1.0,
        "dropout": json.get("resid_pdrop", 0.1),
        "embedding_dropout": json.get("embd_pdrop", 0.1),
        "attention_dropout": json.get("attn_pdrop", 0.1),
    }


def _write(config: DecoderConfig):
    return {
        "vocab_size": config.vocabulary,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.mlp_width,
        "n_positions": config.positions,
        "layer_norm_epsilon": config.epsilon,
        "activation_function": "gelu_new"
        if config.activation == "gelu_tanh"
        else PUBLISHED.get(config.activation, config.activation),
        "tie_word_embeddings": config.tied,
        "scale_attn_weights": config.attention_scale is None,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.embedding_dropout,
        "attn_pdrop": config.attention_dropout,
    }


def tensors(config: DecoderConfig) -> dict[str, Tensor]:
    """Every parameter's tensor in a GPT-2 checkpoint, whose kernels are stored ``[inputs, outputs]``."""
    table = {"embeddings/tokens": Tensor("wte.weight"), "embeddings/positions": Tensor("wpe.weight")}
    for i in range(config.layers):
        ours, theirs = f"layers/{i}", f"h.{i}"
        table |= norm(f"{ours}/attention_norm", f"{theirs}.ln_1", bias=True)
        table |= norm(f"{ours}/mlp_norm", f"{theirs}.ln_2", bias=True)
        sizes = (config.width,) * 3
        for index, part in enumerate(("query", "key", "value")):
            fused = f"{theirs}.attn.c_attn"
            table[f"{ours}/attention/{part}/kernel"] = Tensor(f"{fused}.weight", part=Part(index, sizes, axis=1))
            table[f"{ours}/attention/{part}/bias"] = Tensor(f"{fused}.bias", part=Part(index, sizes))
        for path, name in (("attention/output", "attn.c_proj"), ("mlp/up", "mlp.c_fc"), ("mlp/down", "mlp.c_proj")):
            table[f"{ours}/{path}/kernel"] = Tensor(f"{theirs}.{name}.weight")
            table[f"{ours}/{path}/bias"] = Tensor(f"{theirs}.{name}.bias")
    table |= norm("norm", "ln_f", bias=True)
    if not config.tied:
        table["head/kernel"] = Tensor("lm_head.weight", transposed=True)
    return table


GPT2 = decoder_architecture(
    "gpt2",
    "GPT2LMHeadModel",
    _read,
    _write,
    tensors,
    {"tie_word_embeddings": True},
    whole=True,
    prefix="transformer.",
    unread=(".attn.bias", ".attn.masked_bias"),
)
