"""RoBERTa: BERT's network with positions counted from after the padding token's row."""

from ft_jax.models.architectures import bert
from ft_jax.models.architectures.naming import Architecture, Between, PublishedHead, Tensor, head_tensors
from ft_jax.models.networks.encoder import EncoderConfig

CLASSES = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}
"""Model types of this network, and what transformers' classes for them begin with."""


def read(json, names) -> EncoderConfig:
    """An `EncoderConfig` from config.json; the tensor names tell which heads there are."""
    pad = json.get("pad_token_id")
    return bert.read(
        json,
        names,
        family=json["model_type"],
        types=json.get("type_vocab_size", 1),
        prediction="lm_head.dense.weight" in names,
        padding_row=1 if pad is None else pad,
    )


def write(config: EncoderConfig) -> dict:
    """The config.json of an `EncoderConfig`."""
    name = CLASSES[config.family] + ("ForMaskedLM" if config.prediction else "Model")
    return bert.write(config) | {
        "model_type": config.family,
        "architectures": [name],
        "pad_token_id": config.padding_row,
    }


def tensors(config: EncoderConfig) -> dict[str, Tensor]:
    """Every parameter's tensor in a RoBERTa checkpoint."""
    if not config.prediction:
        return bert.network(config, "")
    head = bert.prediction("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
    return bert.network(config, "roberta.") | head


def heads(config: EncoderConfig) -> tuple[PublishedHead, ...]:
    """A classifier over a dense layer of the first token, and one of every token."""
    name, between = CLASSES[config.family], Between("tanh")
    example = head_tensors("classifier.out_proj", dense="classifier.dense", between=between)
    return (
        PublishedHead(f"{name}ForSequenceClassification", "classification", "cls", example, between),
        PublishedHead(f"{name}ForTokenClassification", "token_classification", None, head_tensors("classifier")),
    )


ROBERTA = Architecture(
    model_types=tuple(CLASSES),
    read=read,
    write=write,
    tensors=tensors,
    prefix="roberta.",
    unread=("embeddings.position_ids", "lm_head.decoder.weight", "lm_head.decoder.bias"),
    fits=lambda config: isinstance(config, EncoderConfig) and config.family in CLASSES,
    heads=heads,
    copies={"lm_head.decoder.weight": "embeddings/tokens", "lm_head.decoder.bias": "prediction/bias"},
)
