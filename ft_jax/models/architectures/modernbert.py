"""ModernBERT: fused attention and MLP projections, local and global layers."""

from ft_jax.models.architectures.bert import PUBLISHED, activation_of
from ft_jax.models.architectures.naming import (
    Architecture,
    Between,
    Part,
    PublishedHead,
    Tensor,
    head_tensors,
    norm,
    projection,
    required,
)
from ft_jax.models.networks.modern_encoder import ModernEncoderConfig
from ft_jax.outside import printable


def _theta(json, kind: str, older: str, default: float) -> float:
    """The rotary base of a kind of layers, as transformers 5 (``rope_parameters``) or 4 writes it."""
    entry = (json.get("rope_parameters") or {}).get(kind) or {}
    if entry.get("rope_type", "default") != "default":
        raise ValueError(
            f"config.json has rope scaling {printable(entry['rope_type'])} for {kind}; only 'default' is known"
        )
    return entry.get("rope_theta", json.get(older, default))


def read(json, names) -> ModernEncoderConfig:
    """A `ModernEncoderConfig` from config.json; the tensor names tell whether there is a masked-language head."""
    layers = required(json, "num_hidden_layers", "config.json")
    every = json.get("global_attn_every_n_layers", 3)
    kinds = json.get("layer_types") or ["sliding_attention" if i % every else "full_attention" for i in range(layers)]
    if not json.get("decoder_bias", True):
        raise ValueError("config.json has decoder_bias False; only heads whose logits have a bias are known")
    return ModernEncoderConfig(
        vocabulary=required(json, "vocab_size", "config.json"),
        width=required(json, "hidden_size", "config.json"),
        layers=layers,
        heads=required(json, "num_attention_heads", "config.json"),
        mlp_width=required(json, "intermediate_size", "config.json"),
        positions=json.get("max_position_embeddings", 8192),
        window=json.get("local_attention", 128) // 2,
        local=tuple(kind == "sliding_attention" for kind in kinds),
        rope_theta=_theta(json, "full_attention", "global_rope_theta", 160000.0),
        local_rope_theta=_theta(json, "sliding_attention", "local_rope_theta", 10000.0),
        biases=json.get("attention_bias", False),
        mlp_biases=json.get("mlp_bias", False),
        norm_biases=json.get("norm_bias", False),
        activation=activation_of(json, "hidden_activation", "gelu"),
        epsilon=json.get("norm_eps", 1e-5),
        embedding_dropout=json.get("embedding_dropout", 0.0),
        dropout=json.get("mlp_dropout", 0.0),
        attention_dropout=json.get("attention_dropout", 0.0),
        # A classifier has the dense layer too, but no bias of logits over tokens.
        prediction={"head.dense.weight", "decoder.bias"} <= names,
        prediction_bias=json.get("classifier_bias", False),
    )


def write(config: ModernEncoderConfig) -> dict:
    """The config.json of a `ModernEncoderConfig`, for transformers 4 and 5 alike."""
    kinds = ["sliding_attention" if local else "full_attention" for local in config.local]
    thetas = {"full_attention": config.rope_theta, "sliding_attention": config.local_rope_theta}
    act = PUBLISHED.get(config.activation, config.activation)
    return {
        "architectures": ["ModernBertForMaskedLM" if config.prediction else "ModernBertModel"],
        "model_type": "modernbert",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.positions,
        "local_attention": 2 * config.window,
        "layer_types": kinds,
        "global_attn_every_n_layers": next((i for i in range(1, len(kinds)) if not config.local[i]), len(kinds)),
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
        "global_rope_theta": config.rope_theta,
        "local_rope_theta": config.local_rope_theta,
        "attention_bias": config.biases,
        "mlp_bias": config.mlp_biases,
        "norm_bias": config.norm_biases,
        "hidden_activation": act,
        "classifier_activation": act,
        "norm_eps": config.epsilon,
        "embedding_dropout": config.embedding_dropout,
        "mlp_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "classifier_bias": config.prediction_bias,
        "decoder_bias": True,
        "torch_dtype": "float32",
    }


def _fused(path: str, name: str, index: int, sizes: tuple[int, ...], bias: bool) -> dict[str, Tensor]:
    """One of the projections that a checkpoint stores as one."""
    part = Part(index, sizes)
    entries = {f"{path}/kernel": Tensor(f"{name}.weight", transposed=True, part=part)}
    return entries | ({f"{path}/bias": Tensor(f"{name}.bias", part=part)} if bias else {})


def tensors(config: ModernEncoderConfig) -> dict[str, Tensor]:
    """Every parameter's tensor in a ModernBERT checkpoint; beside a head, the network's names begin with ``model.``."""
    prefix = "model." if config.prediction else ""
    bias = config.norm_biases
    table = {"embeddings/tokens": Tensor(f"{prefix}embeddings.tok_embeddings.weight")}
    table |= norm("embeddings/norm", f"{prefix}embeddings.norm", bias=bias)
    for i in range(config.layers):
        ours, theirs = f"layers/{i}", f"{prefix}layers.{i}"
        if i:
            table |= norm(f"{ours}/attention_norm", f"{theirs}.attn_norm", bias=bias)
        for index, part in enumerate(("query", "key", "value")):
            table |= _fused(
                f"{ours}/attention/{part}", f"{theirs}.attn.Wqkv", index, (config.width,) * 3, config.biases
            )
        table |= projection(f"{ours}/attention/output", f"{theirs}.attn.Wo", bias=config.biases)
        table |= norm(f"{ours}/mlp_norm", f"{theirs}.mlp_norm", bias=bias)
        for index, part in enumerate(("gate", "up")):
            table |= _fused(f"{ours}/mlp/{part}", f"{theirs}.mlp.Wi", index, (config.mlp_width,) * 2, config.mlp_biases)
        table |= projection(f"{ours}/mlp/down", f"{theirs}.mlp.Wo", bias=config.mlp_biases)
    table |= norm("norm", f"{prefix}final_norm", bias=bias)
    if config.prediction:
        table |= projection("prediction/dense", "head.dense", bias=config.prediction_bias)
        table |= norm("prediction/norm", "head.norm", bias=bias)
        table |= {"prediction/bias": Tensor("decoder.bias")}
    return table


def heads(config: ModernEncoderConfig) -> tuple[PublishedHead, ...]:
    """Classifiers over the masked-language head's dense layer and norm: of the first token, their mean, and each."""
    between = Between(config.activation, config.prediction_bias, config.epsilon, config.norm_biases)
    tensors = head_tensors("classifier", dense="head.dense", norm="head.norm", between=between)
    examples = [
        PublishedHead(
            "ModernBertForSequenceClassification", "classification", pooling, tensors, between,
            fields={"classifier_pooling": pooling},
        )
        for pooling in ("cls", "mean")
    ]  # fmt: skip
    return (
        *examples,
        PublishedHead("ModernBertForTokenClassification", "token_classification", None, tensors, between),
    )


MODERNBERT = Architecture(
    model_types=("modernbert",),
    read=read,
    write=write,
    tensors=tensors,
    prefix="model.",
    unread=("decoder.weight",),
    heads=heads,
    copies={"decoder.weight": "embeddings/tokens"},
    fits=lambda config: isinstance(config, ModernEncoderConfig),
)
