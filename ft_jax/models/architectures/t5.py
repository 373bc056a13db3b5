"""T5, T5 1.1 and Flan-T5."""

from ft_jax.models.architectures.bert import PUBLISHED, activation_of
from ft_jax.models.architectures.naming import Architecture, Tensor, norm, projection, required
from ft_jax.models.networks.t5 import T5Config
from ft_jax.outside import printable

PARTS = {"query": "q", "key": "k", "value": "v", "output": "o"}


def read(json, names) -> T5Config:
    """A `T5Config` from config.json; the tensor names tell whether the unembedding is a table of its own."""
    layers = required(json, "num_layers", "config.json")
    decoder_layers = json.get("num_decoder_layers") or layers
    kind, _, act = json.get("feed_forward_proj", "relu").rpartition("-")
    if kind not in ("", "gated"):
        raise ValueError(
            f"config.json has feed_forward_proj {printable(json['feed_forward_proj'])}; known are ACT and gated-ACT"
        )
    act = "gelu_new" if kind and act == "gelu" else act
    pad = json.get("pad_token_id", 0)
    start = json.get("decoder_start_token_id")
    return T5Config(
        vocabulary=required(json, "vocab_size", "config.json"),
        width=required(json, "d_model", "config.json"),
        layers=layers + decoder_layers,
        decoder_layers=decoder_layers,
        heads=required(json, "num_heads", "config.json"),
        head_width=required(json, "d_kv", "config.json"),
        mlp_width=required(json, "d_ff", "config.json"),
        buckets=json.get("relative_attention_num_buckets", 32),
        distance=json.get("relative_attention_max_distance", 128),
        gated=bool(kind),
        activation=activation_of({"feed_forward_proj": act}, "feed_forward_proj", "relu"),
        tied="lm_head.weight" not in names,
        # transformers 5 writes scale_decoder_outputs; before it, models that say they are not tied don't scale.
        scaled=json.get("scale_decoder_outputs", json.get("tie_word_embeddings") is not False),
        start=pad if start is None else start,
        pad=pad,
        epsilon=json.get("layer_norm_epsilon", 1e-6),
        dropout=json.get("dropout_rate", 0.1),
        attention_dropout=json.get("dropout_rate", 0.1),
    )


def write(config: T5Config) -> dict:
    """The config.json of a `T5Config`."""
    act = PUBLISHED.get(config.activation, config.activation)
    plain = "gelu" if config.gated and act == "gelu_new" else act
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": config.vocabulary,
        "d_model": config.width,
        "num_layers": config.layers - config.decoder_layers,
        "num_decoder_layers": config.decoder_layers,
        "num_heads": config.heads,
        "d_kv": config.head_width,
        "d_ff": config.mlp_width,
        "relative_attention_num_buckets": config.buckets,
        "relative_attention_max_distance": config.distance,
        "feed_forward_proj": f"gated-{plain}" if config.gated else plain,
        # Older versions of transformers take from this one field both whether the tables are tied and the scaling.
        "tie_word_embeddings": config.tied and config.scaled,
        "scale_decoder_outputs": config.scaled,
        "decoder_start_token_id": config.start,
        "pad_token_id": config.pad,
        "layer_norm_epsilon": config.epsilon,
        "dropout_rate": config.dropout,
        "torch_dtype": "float32",
    }


def tensors(config: T5Config) -> dict[str, Tensor]:
    """Every parameter's tensor in a T5 checkpoint."""
    table = {"embeddings/tokens": Tensor("shared.weight")}
    mlp = {"gate": "wi_0", "up": "wi_1", "down": "wo"} if config.gated else {"up": "wi", "down": "wo"}
    for side, count in (("encoder", config.layers - config.decoder_layers), ("decoder", config.decoder_layers)):
        first = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        table[f"{side}/distances"] = Tensor(first)
        kinds = [("attention", "attention_norm", "SelfAttention")]
        kinds += [("cross_attention", "cross_norm", "EncDecAttention")] if side == "decoder" else []
        for i in range(count):
            ours = f"{side}/stack/layers/{i}"
            for place, (path, normal, name) in enumerate(kinds):
                theirs = f"{side}.block.{i}.layer.{place}"
                table |= norm(f"{ours}/{normal}", f"{theirs}.layer_norm", bias=False)
                for part, stored in PARTS.items():
                    table |= projection(f"{ours}/{path}/{part}", f"{theirs}.{name}.{stored}", bias=False)
            theirs = f"{side}.block.{i}.layer.{len(kinds)}"
            table |= norm(f"{ours}/mlp_norm", f"{theirs}.layer_norm", bias=False)
            for part, stored in mlp.items():
                table |= projection(f"{ours}/mlp/{part}", f"{theirs}.DenseReluDense.{stored}", bias=False)
        table |= norm(f"{side}/stack/norm", f"{side}.final_layer_norm", bias=False)
    return table | ({} if config.tied else projection("head", "lm_head", bias=False))


T5 = Architecture(
    model_types=("t5",),
    read=read,
    write=write,
    tensors=tensors,
    prefix="",
    unread=(
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "EncDecAttention.relative_attention_bias.weight",
    ),
    copies={f"{side}.embed_tokens.weight": "embeddings/tokens" for side in ("encoder", "decoder")},
    fits=lambda config: isinstance(config, T5Config),
)
