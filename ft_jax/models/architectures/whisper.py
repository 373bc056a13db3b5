"""Whisper."""

from ft_jax.models.architectures.bert import PUBLISHED, activation_of
from ft_jax.models.architectures.convolutions import Convolution
from ft_jax.models.architectures.naming import Architecture, Tensor, norm, projection, required
from ft_jax.models.networks.audio import WhisperConfig

PARTS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
ATTENTIONS = (
    ("attention", "attention_norm", "self_attn", "self_attn_layer_norm"),
    ("cross_attention", "cross_norm", "encoder_attn", "encoder_attn_layer_norm"),
)


def read(json, names) -> WhisperConfig:
    """A `WhisperConfig` from config.json."""
    source = "config.json"
    layers, decoder_layers = (required(json, f"{side}_layers", source) for side in ("encoder", "decoder"))
    return WhisperConfig(
        vocabulary=required(json, "vocab_size", source),
        mels=json.get("num_mel_bins", 80),
        width=required(json, "d_model", source),
        layers=layers + decoder_layers,
        decoder_layers=decoder_layers,
        heads=required(json, "encoder_attention_heads", source),
        decoder_heads=required(json, "decoder_attention_heads", source),
        mlp_width=required(json, "encoder_ffn_dim", source),
        decoder_mlp_width=required(json, "decoder_ffn_dim", source),
        sources=json.get("max_source_positions", 1500),
        positions=json.get("max_target_positions", 448),
        activation=activation_of(json, "activation_function", "gelu"),
        scaled=bool(json.get("scale_embedding", False)),
        start=json.get("decoder_start_token_id", 50257),
        pad=json.get("pad_token_id", 50256),
        dropout=json.get("dropout", 0.0),
        attention_dropout=json.get("attention_dropout", 0.0),
    )


def write(config: WhisperConfig) -> dict:
    """The config.json of a `WhisperConfig`."""
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "vocab_size": config.vocabulary,
        "num_mel_bins": config.mels,
        "d_model": config.width,
        "encoder_layers": config.layers - config.decoder_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_attention_heads": config.heads,
        "decoder_attention_heads": config.decoder_heads,
        "encoder_ffn_dim": config.mlp_width,
        "decoder_ffn_dim": config.decoder_mlp_width,
        "max_source_positions": config.sources,
        "max_target_positions": config.positions,
        "activation_function": PUBLISHED.get(config.activation, config.activation),
        "scale_embedding": config.scaled,
        "decoder_start_token_id": config.start,
        "pad_token_id": config.pad,
        "bos_token_id": config.pad,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "torch_dtype": "float32",
    }


def tensors(config: WhisperConfig) -> dict[str, Tensor]:
    """Every parameter's tensor in a Whisper checkpoint."""
    table = {
        "stem/positions": Tensor("model.encoder.embed_positions.weight"),
        "embeddings/tokens": Tensor("model.decoder.embed_tokens.weight"),
        "embeddings/positions": Tensor("model.decoder.embed_positions.weight"),
    }
    for ours, theirs in (("first", "conv1"), ("second", "conv2")):
        table[f"stem/{ours}/kernel"] = Convolution(f"model.encoder.{theirs}.weight", size=(3,))
        table[f"stem/{ours}/bias"] = Tensor(f"model.encoder.{theirs}.bias")
    for side, count in (("encoder", config.layers - config.decoder_layers), ("decoder", config.decoder_layers)):
        for i in range(count):
            ours, theirs = f"{side}/layers/{i}", f"model.{side}.layers.{i}"
            for path, normal, name, name_norm in ATTENTIONS[: 1 if side == "encoder" else 2]:
                table |= norm(f"{ours}/{normal}", f"{theirs}.{name_norm}", bias=True)
                for part, stored in PARTS.items():
                    table |= projection(f"{ours}/{path}/{part}", f"{theirs}.{name}.{stored}", bias=part != "key")
            table |= norm(f"{ours}/mlp_norm", f"{theirs}.final_layer_norm", bias=True)
            table |= projection(f"{ours}/mlp/up", f"{theirs}.fc1", bias=True)
            table |= projection(f"{ours}/mlp/down", f"{theirs}.fc2", bias=True)
        table |= norm(f"{side}/norm", f"model.{side}.layer_norm", bias=True)
    return table


WHISPER = Architecture(
    model_types=("whisper",),
    read=read,
    write=write,
    tensors=tensors,
    prefix="",
    unread=("proj_out.weight",),
    copies={"proj_out.weight": "embeddings/tokens"},
    fits=lambda config: isinstance(config, WhisperConfig),
)
