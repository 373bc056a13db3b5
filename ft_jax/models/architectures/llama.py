"""Llama and its like: SmolLM2, Llama 2 and 3, Qwen 2."""

from ft_jax.models.architectures.naming import Architecture, Tensor, norm, projection, required
from ft_jax.models.decoder import DecoderConfig, RopeScaling

ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}


def _rope(json) -> tuple[float, RopeScaling | None]:
    rope = {**(json.get("rope_scaling") or {}), **(json.get("rope_parameters") or {})}
    theta = rope.get("rope_theta", json.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ValueError(f"config.json has rope scaling {kind!r}; known are 'default' and 'llama3'")
    return theta, RopeScaling(
        factor=required(rope, "factor", "rope scaling"),
        low_frequency_factor=required(rope, "low_freq_factor", "rope scaling"),
        high_frequency_factor=required(rope, "high_freq_factor", "rope scaling"),
        original_positions=required(rope, "original_max_position_embeddings", "rope scaling"),
    )


def _read(json, names, *, biases: bool, output_bias: bool, mlp_biases: bool) -> DecoderConfig:
    act = json.get("hidden_act", "silu")
    if act not in ACTIVATIONS:
        raise ValueError(f"config.json has hidden_act {act!r}; known are {', '.join(ACTIVATIONS)}")
    if json.get("use_sliding_window"):
        raise ValueError("config.json has use_sliding_window set; windowed attention is not known here")
    theta, scaling = _rope(json)
    width = required(json, "hidden_size", "config.json")
    heads = required(json, "num_attention_heads", "config.json")
    return DecoderConfig(
        vocabulary=required(json, "vocab_size", "config.json"),
        width=width,
        layers=required(json, "num_hidden_layers", "config.json"),
        heads=heads,
        key_value_heads=json.get("num_key_value_heads") or heads,
        head_width=json.get("head_dim") or width // heads,
        mlp_width=required(json, "intermediate_size", "config.json"),
        positions=json.get("max_position_embeddings", 2048),
        rope_theta=theta,
        rope_scaling=scaling,
        biases=biases,
        output_bias=output_bias,
        mlp_biases=mlp_biases,
        tied=bool(json.get("tie_word_embeddings", False)),
        activation=ACTIVATIONS[act],
        epsilon=json.get("rms_norm_eps", 1e-6),
        attention_dropout=json.get("attention_dropout", 0.0),
    )


def read_llama(json, names) -> DecoderConfig:
    """A `DecoderConfig` from a Llama config.json."""
    biases = bool(json.get("attention_bias", False))
    return _read(json, names, biases=biases, output_bias=biases, mlp_biases=bool(json.get("mlp_bias", False)))


def read_qwen2(json, names) -> DecoderConfig:
    """A `DecoderConfig` from a Qwen 2 config.json."""
    return _read(json, names, biases=True, output_bias=False, mlp_biases=False)


def _write(config: DecoderConfig, model_type: str, architecture: str) -> dict:
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": config.rope_scaling.factor,
            "low_freq_factor": config.rope_scaling.low_frequency_factor,
            "high_freq_factor": config.rope_scaling.high_frequency_factor,
            "original_max_position_embeddings": config.rope_scaling.original_positions,
        }
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.positions,
        "rope_theta": config.rope_theta,
        "rope_parameters": rope,
        "rope_scaling": {**rope} if config.rope_scaling is not None else None,
        "tie_word_embeddings": config.tied,
        "hidden_act": {"gelu_tanh": "gelu_pytorch_tanh"}.get(config.activation, config.activation),
        "rms_norm_eps": config.epsilon,
        "attention_dropout": config.attention_dropout,
        "torch_dtype": "float32",
    }


def write_llama(config: DecoderConfig) -> dict:
    """The Llama config.json of a `DecoderConfig`."""
    json = _write(config, "llama", "LlamaForCausalLM")
    return json | {"attention_bias": config.biases, "mlp_bias": config.mlp_biases}


def write_qwen2(config: DecoderConfig) -> dict:
    """The Qwen 2 config.json of a `DecoderConfig`."""
    return _write(config, "qwen2", "Qwen2ForCausalLM") | {"use_sliding_window": False}


def tensors(config: DecoderConfig) -> dict[str, Tensor]:
    """Every parameter's tensor in a Llama checkpoint."""
    table = {"embeddings/tokens": Tensor("model.embed_tokens.weight")}
    for i in range(config.layers):
        ours, theirs = f"layers/{i}", f"model.layers.{i}"
        table |= norm(f"{ours}/attention_norm", f"{theirs}.input_layernorm", bias=False)
        for part, name in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
            table |= projection(f"{ours}/attention/{part}", f"{theirs}.self_attn.{name}", config.biases)
        table |= projection(f"{ours}/attention/output", f"{theirs}.self_attn.o_proj", config.output_bias)
        table |= norm(f"{ours}/mlp_norm", f"{theirs}.post_attention_layernorm", bias=False)
        for part in ("gate", "up", "down"):
            table |= projection(f"{ours}/mlp/{part}", f"{theirs}.mlp.{part}_proj", config.mlp_biases)
    table |= norm("norm", "model.norm", bias=False)
    if not config.tied:
        table["head/kernel"] = Tensor("lm_head.weight", transposed=True)
    return table


def _read_gguf(metadata, names, *, biases: bool) -> DecoderConfig:
    kind = metadata["general.architecture"]

    def field(name):
        return required(metadata, f"{kind}.{name}", "the GGUF file")

    if metadata.get(f"{kind}.rope.scaling.type", "none") != "none" or "rope_freqs.weight" in names:
        raise ValueError(
            "the GGUF file has rope scaling, which is read from config.json only; load the safetensors form"
        )
    width, heads = field("embedding_length"), field("attention.head_count")
    return DecoderConfig(
        vocabulary=len(required(metadata, "tokenizer.ggml.tokens", "the GGUF file")),
        width=width,
        layers=field("block_count"),
        heads=heads,
        key_value_heads=metadata.get(f"{kind}.attention.head_count_kv", heads),
        head_width=metadata.get(f"{kind}.attention.key_length", width // heads),
        mlp_width=field("feed_forward_length"),
        positions=field("context_length"),
        rope_theta=metadata.get(f"{kind}.rope.freq_base", 10000.0),
        biases=biases,
        tied="output.weight" not in names,
        epsilon=field("attention.layer_norm_rms_epsilon"),
    )


def read_gguf_llama(metadata, names) -> DecoderConfig:
    """A `DecoderConfig` from a GGUF file of architecture ``llama``."""
    return _read_gguf(metadata, names, biases=False)


def read_gguf_qwen2(metadata, names) -> DecoderConfig:
    """A `DecoderConfig` from a GGUF file of architecture ``qwen2``."""
    return _read_gguf(metadata, names, biases=True)


def _gguf(config: DecoderConfig, *, interleaved: bool) -> dict[str, Tensor]:
    table = {"embeddings/tokens": Tensor("token_embd.weight"), "norm/scale": Tensor("output_norm.weight")}
    for i in range(config.layers):
        ours, theirs = f"layers/{i}", f"blk.{i}"
        table |= norm(f"{ours}/attention_norm", f"{theirs}.attn_norm", bias=False)
        for part, name, heads in (
            ("query", "attn_q", config.heads),
            ("key", "attn_k", config.key_value_heads),
            ("value", "attn_v", None),
        ):
            rows = heads if interleaved else None
            table |= projection(f"{ours}/attention/{part}", f"{theirs}.{name}", config.biases, rows)
        table |= projection(f"{ours}/attention/output", f"{theirs}.attn_output", bias=False)
        table |= norm(f"{ours}/mlp_norm", f"{theirs}.ffn_norm", bias=False)
        for part in ("gate", "up", "down"):
            table |= projection(f"{ours}/mlp/{part}", f"{theirs}.ffn_{part}", bias=False)
    if not config.tied:
        table["head/kernel"] = Tensor("output.weight", transposed=True)
    return table


def _llama_fits(config) -> bool:
    return isinstance(config, DecoderConfig) and config.biases == config.output_bias


def _qwen2_fits(config) -> bool:
    return isinstance(config, DecoderConfig) and config.biases and not config.output_bias and not config.mlp_biases


LLAMA = Architecture(
    model_types=("llama",),
    read=read_llama,
    write=write_llama,
    tensors=tensors,
    prefix="",
    unread=("rotary_emb.inv_freq", "lm_head.weight"),
    fits=_llama_fits,
    read_gguf=read_gguf_llama,
    gguf=lambda config: _gguf(config, interleaved=True),
)

QWEN2 = Architecture(
    model_types=("qwen2",),
    read=read_qwen2,
    write=write_qwen2,
    tensors=tensors,
    prefix="",
    unread=("rotary_emb.inv_freq", "lm_head.weight"),
    fits=_qwen2_fits,
    read_gguf=read_gguf_qwen2,
    gguf=lambda config: _gguf(config, interleaved=False),
)
