"""Image towers: ViT and DINOv2 alone, and those of CLIP and SigLIP, which other models embed."""

import dataclasses

from ft_jax.models.architectures.bert import PUBLISHED, activation_of
from ft_jax.models.architectures.convolutions import Convolution, Lifted
from ft_jax.models.architectures.naming import Architecture, Part, Tensor, norm, projection, renamed, required
from ft_jax.models.networks.vision import ViTConfig
from ft_jax.outside import printable

CLIP_PARTS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}


def _sizes(json, source: str = "config.json") -> dict:
    """What all towers' configurations share."""
    size, patch = json.get("image_size", 224), json.get("patch_size", 16)
    height, width = size if isinstance(size, list) else (size, size)
    if not isinstance(patch, int):
        raise ValueError(f"{source} has patch_size {printable(patch)}; only square patches, one number, are known")
    return {
        "image": (height, width, json.get("num_channels", 3)),
        "patch": patch,
        "width": required(json, "hidden_size", source),
        "layers": required(json, "num_hidden_layers", source),
        "heads": required(json, "num_attention_heads", source),
    }


def _described(config: ViTConfig) -> dict:
    height, width, channels = config.image
    return {
        "image_size": height if height == width else [height, width],
        "patch_size": config.patch,
        "num_channels": channels,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "hidden_act": PUBLISHED.get(config.activation, config.activation),
        "layer_norm_eps": config.epsilon,
    }


def read_vit(json, names) -> ViTConfig:
    """A `ViTConfig` from a ViT's config.json; the tensor names tell whether there is a classifier."""
    if not json.get("qkv_bias", True):
        raise ValueError("config.json has qkv_bias False; only towers with biases are known")
    labels = json.get("id2label") or {}
    return ViTConfig(
        **_sizes(json),
        mlp_width=required(json, "intermediate_size", "config.json"),
        classes=(len(labels) or json.get("num_labels", 2)) if "classifier.weight" in names else None,
        mask_token=any(name.endswith("embeddings.mask_token") for name in names),
        activation=activation_of(json, "hidden_act", "gelu"),
        epsilon=json.get("layer_norm_eps", 1e-12),
        dropout=json.get("hidden_dropout_prob", 0.0),
        attention_dropout=json.get("attention_probs_dropout_prob", 0.0),
    )


def write_vit(config: ViTConfig) -> dict:
    """The config.json of a ViT."""
    described = {
        "architectures": ["ViTModel" if config.classes is None else "ViTForImageClassification"],
        "model_type": "vit",
        **_described(config),
        "intermediate_size": config.mlp_width,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "qkv_bias": True,
        "torch_dtype": "float32",
    }
    if config.classes is not None:
        described["id2label"] = {str(i): f"LABEL_{i}" for i in range(config.classes)}
        described["label2id"] = {f"LABEL_{i}": i for i in range(config.classes)}
    return described


def _embedded(config: ViTConfig, prefix: str) -> dict[str, Tensor]:
    """The embeddings' tensors of ViT and DINOv2."""
    patches = f"{prefix}embeddings.patch_embeddings.projection"
    table = {
        "embeddings/patches/kernel": Convolution(f"{patches}.weight", size=(config.patch, config.patch)),
        "embeddings/patches/bias": Tensor(f"{patches}.bias"),
        "embeddings/first": Lifted(f"{prefix}embeddings.cls_token", axes=2),
        "embeddings/positions": Lifted(f"{prefix}embeddings.position_embeddings"),
    }
    if config.mask_token:
        axes = 1 if config.family == "dinov2" else 2
        table["embeddings/mask"] = Lifted(f"{prefix}embeddings.mask_token", axes=axes)
    return table


def _attention(ours: str, theirs: str) -> dict[str, Tensor]:
    table = {}
    for part in ("query", "key", "value"):
        table |= projection(f"{ours}/attention/{part}", f"{theirs}.attention.attention.{part}", bias=True)
    return table | projection(f"{ours}/attention/output", f"{theirs}.attention.output.dense", bias=True)


def tensors_vit(config: ViTConfig) -> dict[str, Tensor]:
    """Every parameter's tensor in a ViT checkpoint; beside a classifier, the network's names begin with ``vit.``."""
    prefix = "" if config.classes is None else "vit."
    table = _embedded(config, prefix)
    for i in range(config.layers):
        ours, theirs = f"layers/{i}", f"{prefix}encoder.layer.{i}"
        table |= norm(f"{ours}/attention_norm", f"{theirs}.layernorm_before", bias=True)
        table |= _attention(ours, theirs)
        table |= norm(f"{ours}/mlp_norm", f"{theirs}.layernorm_after", bias=True)
        table |= projection(f"{ours}/mlp/up", f"{theirs}.intermediate.dense", bias=True)
        table |= projection(f"{ours}/mlp/down", f"{theirs}.output.dense", bias=True)
    table |= norm("norm", f"{prefix}layernorm", bias=True)
    return table | ({} if config.classes is None else projection("head", "classifier", bias=True))


def read_dinov2(json, names) -> ViTConfig:
    """A `ViTConfig` from a DINOv2's config.json."""
    gated, width = json.get("use_swiglu_ffn", False), required(json, "hidden_size", "config.json")
    hidden = int(width * json.get("mlp_ratio", 4))
    return ViTConfig(
        **_sizes(json),
        mlp_width=(int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden,
        classes=None,
        layer_scale=True,
        gated=gated,
        mask_token=any(name.endswith("embeddings.mask_token") for name in names),
        activation=activation_of(json, "hidden_act", "gelu"),
        epsilon=json.get("layer_norm_eps", 1e-6),
        dropout=json.get("hidden_dropout_prob", 0.0),
        attention_dropout=json.get("attention_probs_dropout_prob", 0.0),
        family="dinov2",
    )


def write_dinov2(config: ViTConfig) -> dict:
    """The config.json of a DINOv2."""
    whole = config.mlp_width % config.width == 0
    return {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        **_described(config),
        "mlp_ratio": _gated_ratio(config) if config.gated else config.mlp_width // config.width if whole else None,
        "use_swiglu_ffn": config.gated,
        "use_mask_token": config.mask_token,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "qkv_bias": True,
        "torch_dtype": "float32",
    }


def _gated_ratio(config: ViTConfig) -> int:
    """The smallest whole ratio whose gated MLP, two thirds as wide and a multiple of 8, is this wide."""
    for ratio in range(1, 65):
        if (int(config.width * ratio * 2 / 3) + 7) // 8 * 8 == config.mlp_width:
            return ratio
    raise ValueError(f"ViTConfig.mlp_width is {config.mlp_width}, which no whole mlp_ratio of a DINOv2 gives")


def tensors_dinov2(config: ViTConfig) -> dict[str, Tensor]:
    """Every parameter's tensor in a DINOv2 checkpoint."""
    table = _embedded(config, "")
    for i in range(config.layers):
        ours, theirs = f"layers/{i}", f"encoder.layer.{i}"
        table |= norm(f"{ours}/attention_norm", f"{theirs}.norm1", bias=True)
        table |= _attention(ours, theirs)
        table[f"{ours}/attention_scale"] = Tensor(f"{theirs}.layer_scale1.lambda1")
        table |= norm(f"{ours}/mlp_norm", f"{theirs}.norm2", bias=True)
        if config.gated:
            table |= gated(f"{ours}/mlp", f"{theirs}.mlp", config.mlp_width)
        else:
            table |= mlp(f"{ours}/mlp", f"{theirs}.mlp")
        table[f"{ours}/mlp_scale"] = Tensor(f"{theirs}.layer_scale2.lambda1")
    return table | norm("norm", "layernorm", bias=True)


def mlp(ours: str, theirs: str) -> dict[str, Tensor]:
    """An MLP's tensors."""
    return projection(f"{ours}/up", f"{theirs}.fc1", bias=True) | projection(f"{ours}/down", f"{theirs}.fc2", bias=True)


def gated(ours: str, theirs: str, width: int) -> dict[str, Tensor]:
    """A gated MLP's tensors, gate and up stored as one."""
    table = projection(f"{ours}/down", f"{theirs}.weights_out", bias=True)
    for index, part in enumerate(("gate", "up")):
        half = Part(index, (width, width))
        table[f"{ours}/{part}/kernel"] = Tensor(f"{theirs}.weights_in.weight", transposed=True, part=half)
        table[f"{ours}/{part}/bias"] = Tensor(f"{theirs}.weights_in.bias", part=half)
    return table


def read_tower(json, kind: str, **special) -> ViTConfig:
    """The image tower of a ``"clip"`` or ``"siglip"`` configuration's ``vision_config``."""
    clip, source = kind == "clip", "vision_config in config.json"
    json = {"image_size": 224, "patch_size": 32 if clip else 16, **json}
    settings = {
        "class_token": clip,
        "patch_bias": not clip,
        "first_norm": clip,
        "attention_pool": not clip and json.get("vision_use_head", True),
        "activation": activation_of(json, "hidden_act", "quick_gelu" if clip else "gelu_pytorch_tanh"),
        "epsilon": json.get("layer_norm_eps", 1e-5 if clip else 1e-6),
    }
    return ViTConfig(
        **_sizes(json, source),
        mlp_width=required(json, "intermediate_size", source),
        classes=None,
        attention_dropout=json.get("attention_dropout", 0.0),
        family=kind,
        **settings | special,
    )


def write_tower(config: ViTConfig) -> dict:
    """The ``vision_config`` of such a tower."""
    described = {
        "model_type": f"{config.family}_vision_model",
        **_described(config),
        "hidden_act": {"gelu_tanh": "gelu_pytorch_tanh"}.get(config.activation, config.activation),
        "intermediate_size": config.mlp_width,
        "attention_dropout": config.attention_dropout,
    }
    return described | ({"vision_use_head": config.attention_pool} if config.family == "siglip" else {})


def layers(path: str, name: str, count: int) -> dict[str, Tensor]:
    """The layers of a tower of CLIP or SigLIP, of images or text."""
    table = {}
    for i in range(count):
        ours, theirs = f"{path}layers/{i}", f"{name}encoder.layers.{i}"
        table |= norm(f"{ours}/attention_norm", f"{theirs}.layer_norm1", bias=True)
        for part, stored in CLIP_PARTS.items():
            table |= projection(f"{ours}/attention/{part}", f"{theirs}.self_attn.{stored}", bias=True)
        table |= norm(f"{ours}/mlp_norm", f"{theirs}.layer_norm2", bias=True)
        table |= mlp(f"{ours}/mlp", f"{theirs}.mlp")
    return table


def tensors_tower(config: ViTConfig, path: str, name: str) -> dict[str, Tensor]:
    """The tensors of an image tower of CLIP or SigLIP.

    Args:
      config: of the tower.
      path: what its parameters' paths begin with, such as ``"vision/"``.
      name: what its tensors' names begin with, such as ``"vision_model."``.
    """
    stored = f"{name}embeddings.patch_embedding"
    table = {
        f"{path}embeddings/patches/kernel": Convolution(f"{stored}.weight", size=(config.patch, config.patch)),
        f"{path}embeddings/positions": Tensor(f"{name}embeddings.position_embedding.weight"),
    }
    if config.patch_bias:
        table[f"{path}embeddings/patches/bias"] = Tensor(f"{stored}.bias")
    if config.class_token:
        table[f"{path}embeddings/first"] = Tensor(f"{name}embeddings.class_embedding")
    if config.first_norm:
        table |= norm(f"{path}first_norm", f"{name}pre_layrnorm", bias=True)
    table |= layers(path, name, config.layers) | norm(f"{path}norm", f"{name}post_layernorm", bias=True)
    if config.attention_pool:
        table |= _pool(config.width, f"{path}pooling", f"{name}head")
    return table


def _pool(width: int, ours: str, theirs: str) -> dict[str, Tensor]:
    table = {f"{ours}/query": Lifted(f"{theirs}.probe", axes=2)}
    for index, part in enumerate(("query", "key", "value")):
        third, stored = Part(index, (width,) * 3), f"{theirs}.attention.in_proj_"
        table[f"{ours}/attention/{part}/kernel"] = Tensor(f"{stored}weight", transposed=True, part=third)
        table[f"{ours}/attention/{part}/bias"] = Tensor(f"{stored}bias", part=third)
    table |= projection(f"{ours}/attention/output", f"{theirs}.attention.out_proj", bias=True)
    table |= norm(f"{ours}/norm", f"{theirs}.layernorm", bias=True)
    return table | mlp(f"{ours}/mlp", f"{theirs}.mlp")


def _fits(family: str):
    def fits(config):
        plain = isinstance(config, ViTConfig) and config.family == family and config.class_token
        return plain and not (config.first_norm or config.attention_pool) and config.patch_bias

    return fits


def _modules(dense: tuple[tuple[str, str], ...]):
    """The names in memory of a tower whose attention's and MLP's were other ones."""
    attention = [
        (rf"attention\.attention\.{old}\.", f"attention.{new}.")
        for old, new in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"))
    ]
    change = renamed(*attention, (r"attention\.output\.dense\.", "attention.o_proj."), *dense)

    def modules(table):
        return {path: _apart(tensor) for path, tensor in change(table).items()}

    return modules


def _apart(tensor: Tensor) -> Tensor:
    """Of the gated MLP of DINOv2, whose first two projections are one in files and two in memory."""
    if tensor.part is None or ".weights_in." not in tensor.name:
        return tensor
    own = ("gate_proj", "up_proj")[tensor.part.index]
    return dataclasses.replace(tensor, name=tensor.name.replace("weights_in", own), part=None)


def _layers(table):
    return renamed((r"^((?:vit\.)?)encoder\.layer\.", r"\1layers."))(table)


VIT_NAMES = ((r"intermediate\.dense\.", "mlp.fc1."), (r"output\.dense\.", "mlp.fc2."))
"""Those of ViT's MLP in files and in memory."""

VIT = Architecture(
    model_types=("vit",),
    read=read_vit,
    write=write_vit,
    tensors=tensors_vit,
    prefix="vit.",
    unread=("pooler.dense.weight", "pooler.dense.bias"),
    fits=_fits("vit"),
    modules=lambda table: _layers(_modules(VIT_NAMES)(table)),
)
DINOV2 = Architecture(
    model_types=("dinov2",),
    read=read_dinov2,
    write=write_dinov2,
    tensors=tensors_dinov2,
    prefix="dinov2.",
    unread=(),
    fits=_fits("dinov2"),
    modules=_modules(((r"mlp\.weights_out\.", "mlp.down_proj."),)),
)
