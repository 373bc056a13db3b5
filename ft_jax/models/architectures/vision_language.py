"""LLaVA 1.5 and PaliGemma: an image tower, a projector and a decoder in one checkpoint."""

import dataclasses

from ft_jax.models.architectures import gemma, llama
from ft_jax.models.architectures.bert import activation_of
from ft_jax.models.architectures.naming import Architecture, Tensor, projection, renamed, required
from ft_jax.models.architectures.vision_towers import read_tower, tensors_tower, write_tower
from ft_jax.models.networks.vlm import VisionLanguageConfig
from ft_jax.outside import printable

DECODERS = {
    name: architecture
    for architecture in (llama.LLAMA, llama.MISTRAL, llama.QWEN2, gemma.GEMMA)
    for name in architecture.model_types
}

LLAMA_DEFAULTS = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}
"""What a ``text_config`` that leaves numbers out means: Llama's 7 billion parameters."""


def _decoder(config):
    name = config.language.family or ("llama" if config.family == "llava" else "gemma")
    return DECODERS[name]


def _parts(json, names) -> dict:
    """The two parts of a configuration, and what stands before the image tower's names."""
    text = {"model_type": "llama" if json["model_type"] == "llava" else "gemma", **(json.get("text_config") or {})}
    if text["model_type"] not in DECODERS:
        raise ValueError(
            f"text_config in config.json has model_type {printable(text['model_type'])}; known in a vision-language "
            f"model are {', '.join(DECODERS)}"
        )
    if text["model_type"] == "llama":
        text = LLAMA_DEFAULTS | text
    # PaliGemma's prefix is what this field means there; a decoder alone would be an encoder by it.
    text = {name: field for name, field in text.items() if name != "use_bidirectional_attention"}
    vision = required(json, "vision_config", "config.json")
    kind = {"clip_vision_model": "clip", "siglip_vision_model": "siglip"}.get(vision.get("model_type"))
    if kind is None:
        raise ValueError(
            f"vision_config in config.json has model_type {printable(vision.get('model_type'))}; known are "
            "'clip_vision_model' and 'siglip_vision_model'"
        )
    older = "vision_tower.vision_model."
    head = any(".head.probe" in name for name in names)
    return {
        "vision": dataclasses.replace(read_tower(vision, kind), attention_pool=head),
        "language": DECODERS[text["model_type"]].read(text, names),
        "tower": older if any(name.startswith(older) for name in names) else "vision_tower.",
    }


def read_llava(json, names) -> VisionLanguageConfig:
    """A `VisionLanguageConfig` from a LLaVA's config.json."""
    layer = json.get("vision_feature_layer", -2)
    if not isinstance(layer, int):
        raise ValueError(f"config.json has vision_feature_layer {printable(layer)}; one layer, a number, is known")
    return VisionLanguageConfig(
        **_parts(json, names),
        image_token=json.get("image_token_index", 32000),
        feature_layer=layer,
        first=json.get("vision_feature_select_strategy", "default") == "full",
        projector_bias=json.get("multimodal_projector_bias", True),
        activation=activation_of(json, "projector_hidden_act", "gelu"),
    )


def read_paligemma(json, names) -> VisionLanguageConfig:
    """A `VisionLanguageConfig` from a PaliGemma's config.json."""
    return VisionLanguageConfig(
        **_parts(json, names),
        image_token=json.get("image_token_index", 256000),
        feature_layer=None,
        hidden=False,
        prefix=True,
        family="paligemma",
    )


def write(config: VisionLanguageConfig) -> dict:
    """The config.json of a vision-language model."""
    text = _decoder(config).write(config.language)
    shared = {
        "model_type": config.family,
        "vision_config": write_tower(config.vision),
        "text_config": text,
        "image_token_index": config.image_token,
        "tie_word_embeddings": config.language.tied,
        "torch_dtype": "float32",
    }
    if config.family == "paligemma":
        shared["vision_config"]["projection_dim"] = config.width
        return shared | {
            "architectures": ["PaliGemmaForConditionalGeneration"],
            "projection_dim": config.width,
        }
    return shared | {
        "architectures": ["LlavaForConditionalGeneration"],
        "vision_feature_layer": config.feature_layer,
        "vision_feature_select_strategy": "full" if config.first else "default",
        "image_seq_length": config.image_tokens,
        "multimodal_projector_bias": config.projector_bias,
        "projector_hidden_act": config.activation,
    }


def tensors(config: VisionLanguageConfig) -> dict[str, Tensor]:
    """Every parameter's tensor in a vision-language checkpoint."""
    table, name = tensors_tower(config.vision, "vision/", config.tower), "multi_modal_projector"
    if config.hidden:
        table |= projection("projector/hidden", f"{name}.linear_1", bias=config.projector_bias)
        table |= projection("projector/output", f"{name}.linear_2", bias=config.projector_bias)
    else:
        table |= projection("projector/output", f"{name}.linear", bias=config.projector_bias)
    for path, tensor in _decoder(config).tensors(config.language).items():
        stored = dataclasses.replace(
            tensor,
            name=f"language_model.{tensor.name}",
            more=tuple(f"language_model.{more}" for more in tensor.more),
        )
        table[f"language/{path}"] = stored
    return table


LLAVA, PALIGEMMA = (
    Architecture(
        model_types=(kind,),
        read=read,
        write=write,
        tensors=tensors,
        prefix="",
        unread=("rotary_emb.inv_freq", "embeddings.position_ids", "language_model.lm_head.weight"),
        modules=renamed(
            (r"^language_model\.lm_head\.", "lm_head."),
            (r"^language_model\.model\.", "model.language_model."),
            (r"^(vision_tower|multi_modal_projector)\.", r"model.\1."),
        ),
        copies={"language_model.lm_head.weight": "language/embeddings/tokens"},
        fits=lambda config, kind=kind: isinstance(config, VisionLanguageConfig) and config.family == kind,
    )
    for kind, read in (("llava", read_llava), ("paligemma", read_paligemma))
)
