"""DistilBERT: BERT's layers without token types and pooler, under other names."""

from ft_jax.models.architectures import bert
from ft_jax.models.architectures.naming import (
    Architecture,
    Between,
    PublishedHead,
    Tensor,
    head_tensors,
    norm,
    projection,
    required,
)
from ft_jax.models.networks.encoder import EncoderConfig

PARTS = {"query": "q_lin", "key": "k_lin", "value": "v_lin", "output": "out_lin"}


def read(json, names) -> EncoderConfig:
    """An `EncoderConfig` from config.json."""
    return EncoderConfig(
        vocabulary=required(json, "vocab_size", "config.json"),
        width=required(json, "dim", "config.json"),
        layers=required(json, "n_layers", "config.json"),
        heads=required(json, "n_heads", "config.json"),
        mlp_width=required(json, "hidden_dim", "config.json"),
        positions=json.get("max_position_embeddings", 512),
        types=None,
        activation=bert.activation_of(json, "activation", "gelu"),
        dropout=json.get("dropout", 0.1),
        attention_dropout=json.get("attention_dropout", 0.1),
        prediction="vocab_transform.weight" in names,
        family="distilbert",
    )


def write(config: EncoderConfig) -> dict:
    """The config.json of an `EncoderConfig`."""
    return {
        "architectures": ["DistilBertForMaskedLM" if config.prediction else "DistilBertModel"],
        "model_type": "distilbert",
        "vocab_size": config.vocabulary,
        "dim": config.width,
        "n_layers": config.layers,
        "n_heads": config.heads,
        "hidden_dim": config.mlp_width,
        "max_position_embeddings": config.positions,
        "activation": bert.PUBLISHED.get(config.activation, config.activation),
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "torch_dtype": "float32",
    }


def tensors(config: EncoderConfig) -> dict[str, Tensor]:
    """Every parameter's tensor in a DistilBERT checkpoint."""
    prefix = "distilbert." if config.prediction else ""
    table = {
        "embeddings/tokens": Tensor(f"{prefix}embeddings.word_embeddings.weight"),
        "embeddings/positions": Tensor(f"{prefix}embeddings.position_embeddings.weight"),
    }
    table |= norm("embeddings/norm", f"{prefix}embeddings.LayerNorm", bias=True)
    for i in range(config.layers):
        ours, theirs = f"layers/{i}", f"{prefix}transformer.layer.{i}"
        for part, name in PARTS.items():
            table |= projection(f"{ours}/attention/{part}", f"{theirs}.attention.{name}", bias=True)
        table |= norm(f"{ours}/attention_norm", f"{theirs}.sa_layer_norm", bias=True)
        table |= projection(f"{ours}/mlp/up", f"{theirs}.ffn.lin1", bias=True)
        table |= projection(f"{ours}/mlp/down", f"{theirs}.ffn.lin2", bias=True)
        table |= norm(f"{ours}/mlp_norm", f"{theirs}.output_layer_norm", bias=True)
    if config.prediction:
        table |= bert.prediction("vocab_transform", "vocab_layer_norm", "vocab_projector.bias")
    return table


def heads(config: EncoderConfig) -> tuple[PublishedHead, ...]:
    """A classifier over a dense layer of the first token, and one of every token."""
    between = Between("relu")
    example = head_tensors("classifier", dense="pre_classifier", between=between)
    return (
        PublishedHead("DistilBertForSequenceClassification", "classification", "cls", example, between),
        PublishedHead("DistilBertForTokenClassification", "token_classification", None, head_tensors("classifier")),
    )


DISTILBERT = Architecture(
    model_types=("distilbert",),
    read=read,
    write=write,
    tensors=tensors,
    prefix="distilbert.",
    unread=("embeddings.position_ids", "vocab_projector.weight"),
    heads=heads,
    copies={"vocab_projector.weight": "embeddings/tokens"},
    fits=lambda config: isinstance(config, EncoderConfig) and config.family == "distilbert",
)
