"""CLIP and SigLIP: an image and a text tower."""

from ft_jax.models.architectures.bert import activation_of
from ft_jax.models.architectures.convolutions import Lifted
from ft_jax.models.architectures.naming import Architecture, Tensor, norm, projection, required
from ft_jax.models.architectures.vision_towers import layers, read_tower, tensors_tower, write_tower
from ft_jax.models.networks.dual import DualConfig, TextTowerConfig


def _read_text(json, kind: str) -> TextTowerConfig:
    clip, source = kind == "clip", "text_config in config.json"
    end = json.get("eos_token_id", 49407)
    return TextTowerConfig(
        vocabulary=required(json, "vocab_size", source),
        width=required(json, "hidden_size", source),
        layers=required(json, "num_hidden_layers", source),
        heads=required(json, "num_attention_heads", source),
        mlp_width=required(json, "intermediate_size", source),
        positions=json.get("max_position_embeddings", 77 if clip else 64),
        causal=clip,
        # Checkpoints of before the end token was configurable say 2, whatever it is: there the largest id is the end.
        end=None if not clip else -1 if end == 2 else end,
        activation=activation_of(json, "hidden_act", "quick_gelu" if clip else "gelu_pytorch_tanh"),
        epsilon=json.get("layer_norm_eps", 1e-5 if clip else 1e-6),
        attention_dropout=json.get("attention_dropout", 0.0),
    )


def _read(kind: str):
    def read(json, names) -> DualConfig:
        vision = read_tower(required(json, "vision_config", "config.json"), kind)
        text = _read_text(required(json, "text_config", "config.json"), kind)
        width = json.get("projection_dim", 512) if kind == "clip" else vision.width
        return DualConfig(vision, text, width, kind)

    return read


def write(config: DualConfig) -> dict:
    """The config.json of two towers."""
    text, clip = config.text, config.family == "clip"
    described = {
        "model_type": f"{config.family}_text_model",
        "vocab_size": text.vocabulary,
        "hidden_size": text.width,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "intermediate_size": text.mlp_width,
        "max_position_embeddings": text.positions,
        "hidden_act": {"gelu_tanh": "gelu_pytorch_tanh"}.get(text.activation, text.activation),
        "layer_norm_eps": text.epsilon,
        "attention_dropout": text.attention_dropout,
    }
    described |= {"eos_token_id": 2 if text.end == -1 else text.end} if clip else {"projection_size": config.width}
    whole = {
        "architectures": ["CLIPModel" if clip else "SiglipModel"],
        "model_type": config.family,
        "text_config": described,
        "vision_config": write_tower(config.vision),
        "torch_dtype": "float32",
    }
    return whole | ({"projection_dim": config.width} if clip else {})


def tensors(config: DualConfig) -> dict[str, Tensor]:
    """Every parameter's tensor in a checkpoint of two towers."""
    name, clip = "text_model.", config.family == "clip"
    table = tensors_tower(config.vision, "vision/", "vision_model.")
    table |= {
        "text/embeddings/tokens": Tensor(f"{name}embeddings.token_embedding.weight"),
        "text/embeddings/positions": Tensor(f"{name}embeddings.position_embedding.weight"),
    }
    table |= layers("text/", name, config.text.layers) | norm("text/norm", f"{name}final_layer_norm", bias=True)
    if clip:
        table |= projection("image_projection", "visual_projection", bias=False)
        table |= projection("text_projection", "text_projection", bias=False)
        return table | {"log_scale": Tensor("logit_scale")}
    table |= projection("text_projection", f"{name}head", bias=True)
    return table | {"log_scale": Lifted("logit_scale"), "logit_bias": Lifted("logit_bias")}


CLIP, SIGLIP = (
    Architecture(
        model_types=(kind,),
        read=_read(kind),
        write=write,
        tensors=tensors,
        prefix="",
        unread=("embeddings.position_ids",),
        fits=lambda config, kind=kind: isinstance(config, DualConfig) and config.family == kind,
    )
    for kind in ("clip", "siglip")
)
