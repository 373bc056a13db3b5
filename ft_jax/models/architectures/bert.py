"""BERT: all-MiniLM-L6-v2 and every checkpoint of model type ``bert``."""

from ft_jax.models.architectures.naming import (
    Architecture,
    PublishedHead,
    Tensor,
    head_tensors,
    norm,
    projection,
    required,
)
from ft_jax.models.networks.encoder import EncoderConfig
from ft_jax.outside import printable

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
}
PUBLISHED = {"gelu_tanh": "gelu_new"}


def activation_of(json, field: str, default: str) -> str:
    """This library's name of the activation in a config.json.

    Raises:
      ValueError: where it is unknown.
    """
    name = json.get(field, default)
    if name not in ACTIVATIONS:
        raise ValueError(f"config.json has {field} {printable(name)}; known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def read(json, names, **special) -> EncoderConfig:
    """An `EncoderConfig` from config.json; the tensor names tell which heads there are."""
    if json.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError(
            f"config.json has position_embedding_type {printable(json['position_embedding_type'])}; only 'absolute' is "
            "known"
        )
    settings = {
        "epsilon": json.get("layer_norm_eps", 1e-12),
        "types": json.get("type_vocab_size", 2),
        "prediction": "cls.predictions.transform.dense.weight" in names,
    }
    return EncoderConfig(
        vocabulary=required(json, "vocab_size", "config.json"),
        width=required(json, "hidden_size", "config.json"),
        layers=required(json, "num_hidden_layers", "config.json"),
        heads=required(json, "num_attention_heads", "config.json"),
        mlp_width=required(json, "intermediate_size", "config.json"),
        positions=json.get("max_position_embeddings", 512),
        activation=activation_of(json, "hidden_act", "gelu"),
        dropout=json.get("hidden_dropout_prob", 0.1),
        attention_dropout=json.get("attention_probs_dropout_prob", 0.1),
        pooler=any(name.endswith("pooler.dense.weight") for name in names),
        **settings | special,
    )


def write(config: EncoderConfig) -> dict:
    """The config.json of an `EncoderConfig`."""
    return {
        "architectures": ["BertForMaskedLM" if config.prediction else "BertModel"],
        "model_type": "bert",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.types,
        "hidden_act": PUBLISHED.get(config.activation, config.activation),
        "layer_norm_eps": config.epsilon,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "torch_dtype": "float32",
    }


def network(config: EncoderConfig, prefix: str) -> dict[str, Tensor]:
    """The network's tensors, their names after `prefix`."""
    table = {
        f"embeddings/{ours}": Tensor(f"{prefix}embeddings.{theirs}_embeddings.weight")
        for ours, theirs in (("tokens", "word"), ("positions", "position"), ("types", "token_type"))
    }
    table |= norm("embeddings/norm", f"{prefix}embeddings.LayerNorm", bias=True)
    for i in range(config.layers):
        ours, theirs = f"layers/{i}", f"{prefix}encoder.layer.{i}"
        for part in ("query", "key", "value"):
            table |= projection(f"{ours}/attention/{part}", f"{theirs}.attention.self.{part}", bias=True)
        table |= projection(f"{ours}/attention/output", f"{theirs}.attention.output.dense", bias=True)
        table |= norm(f"{ours}/attention_norm", f"{theirs}.attention.output.LayerNorm", bias=True)
        table |= projection(f"{ours}/mlp/up", f"{theirs}.intermediate.dense", bias=True)
        table |= projection(f"{ours}/mlp/down", f"{theirs}.output.dense", bias=True)
        table |= norm(f"{ours}/mlp_norm", f"{theirs}.output.LayerNorm", bias=True)
    if config.pooler:
        table |= projection("pooler", f"{prefix}pooler.dense", bias=True)
    return table


def prediction(dense: str, normalised: str, bias: str) -> dict[str, Tensor]:
    """The masked-language head's tensors, whose unembedding is the token table."""
    table = projection("prediction/dense", dense, bias=True) | norm("prediction/norm", normalised, bias=True)
    return table | {"prediction/bias": Tensor(bias)}


def tensors(config: EncoderConfig) -> dict[str, Tensor]:
    """Every parameter's tensor in a BERT checkpoint; beside a head, the network's names begin with ``bert.``."""
    if not config.prediction:
        return network(config, "")
    head = "cls.predictions.transform"
    return network(config, "bert.") | prediction(f"{head}.dense", f"{head}.LayerNorm", "cls.predictions.bias")


def heads(config: EncoderConfig) -> tuple[PublishedHead, ...]:
    """A classifier over the pooler, and one of every token."""
    tensors = head_tensors("classifier")
    return (
        PublishedHead("BertForSequenceClassification", "classification", "pooler", tensors),
        PublishedHead("BertForTokenClassification", "token_classification", None, tensors),
    )


BERT = Architecture(
    model_types=("bert",),
    read=read,
    write=write,
    tensors=tensors,
    prefix="bert.",
    unread=(
        "embeddings.position_ids",
        "cls.predictions.decoder.weight",
        "cls.predictions.decoder.bias",
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
    ),
    fits=lambda config: isinstance(config, EncoderConfig) and config.family == "bert",
    heads=heads,
    copies={"predictions.decoder.weight": "embeddings/tokens", "predictions.decoder.bias": "prediction/bias"},
)
