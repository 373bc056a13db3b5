"""Decoders in GGUF files: their metadata and llama.cpp's names of their tensors."""

import numpy as np

from ft_jax.models.architectures.naming import FREQUENCIES, Tensor, norm, projection, required
from ft_jax.models.networks.decoder_config import DecoderConfig
from ft_jax.models.networks.parts.rope import Linear, Llama3, LongRope
from ft_jax.outside import printable

EVERY = 6
"""Of Gemma 3's layers, each sixth sees everything; GGUF files don't say so."""

LARGEST_GEMMA3 = 62
"""Layers of the 27B model, whose scores alone are not scaled by the width of a head."""


def _common(metadata, names) -> dict:
    kind = metadata["general.architecture"]

    def field(name):
        return required(metadata, f"{kind}.{name}", "the GGUF file")

    width, heads = field("embedding_length"), field("attention.head_count")
    return {
        "vocabulary": len(required(metadata, "tokenizer.ggml.tokens", "the GGUF file")),
        "width": width,
        "layers": field("block_count"),
        "heads": heads,
        "key_value_heads": metadata.get(f"{kind}.attention.head_count_kv", heads),
        "head_width": metadata.get(f"{kind}.attention.key_length", width // heads),
        "mlp_width": field("feed_forward_length"),
        "positions": field("context_length"),
        "rope_theta": metadata.get(f"{kind}.rope.freq_base", 10000.0),
        "rope_scaling": _scaling(metadata, kind),
        "tied": "output.weight" not in names,
        "epsilon": field("attention.layer_norm_rms_epsilon"),
    }


def _scaling(metadata, kind):
    name = metadata.get(f"{kind}.rope.scaling.type", "none")
    if FREQUENCIES in metadata:
        return _divided(metadata[FREQUENCIES], metadata.get(f"{kind}.rope.freq_base", 10000.0))
    if name == "none":
        return None
    if name != "linear":
        raise ValueError(
            f"the GGUF file has rope scaling {printable(name)}, which is read from config.json only; load the "
            "safetensors form"
        )
    return Linear(required(metadata, f"{kind}.rope.scaling.factor", "the GGUF file"))


def _divided(divisors, theta):
    """The scaling that divides the frequencies so: Llama 3's where it is, else the divisors themselves."""
    divisors = np.asarray(divisors, np.float32)
    width, largest = 2 * len(divisors), float(divisors.max())
    llama3 = Llama3(largest, 1.0, 4.0, 8192)
    plain = LongRope(1.0, 8192, short=tuple(divisors.tolist()), long=tuple(divisors.tolist()))
    expected, given = (np.asarray(scaling.frequencies(theta, width, np.int32(1))) for scaling in (plain, llama3))
    return llama3 if np.allclose(given, expected, rtol=1e-4) else plain


def read_llama(metadata, names) -> DecoderConfig:
    """A `DecoderConfig` from a GGUF file of architecture ``llama``, which is Mistral's too."""
    return DecoderConfig(**_common(metadata, names), family="llama")


def read_qwen2(metadata, names) -> DecoderConfig:
    """A `DecoderConfig` from a GGUF file of architecture ``qwen2``."""
    return DecoderConfig(**_common(metadata, names), biases=True, family="qwen2")


def read_qwen3(metadata, names) -> DecoderConfig:
    """A `DecoderConfig` from a GGUF file of architecture ``qwen3``."""
    return DecoderConfig(**_common(metadata, names), query_key_norms=True, family="qwen3")


def read_gemma3(metadata, names) -> DecoderConfig:
    """A `DecoderConfig` from a GGUF file of architecture ``gemma3``."""
    common = _common(metadata, names)
    largest = common["layers"] == LARGEST_GEMMA3
    scalar = common["width"] // common["heads"] if largest else common["head_width"]
    return DecoderConfig(
        **common | {"rope_theta": metadata.get("gemma3.rope.freq_base", 1e6)},
        family="gemma3_text",
        window=required(metadata, "gemma3.attention.sliding_window", "the GGUF file"),
        windowed=(True,) * (EVERY - 1) + (False,),
        local_rope_theta=metadata.get("gemma3.rope.freq_base_swa", 10000.0),
        post_norms=True,
        query_key_norms=True,
        activation="gelu_tanh",
        embedding_scale=float(common["width"]) ** 0.5,
        attention_scale=float(scalar) ** -0.5,
    )


def plain(config: DecoderConfig) -> dict[str, Tensor]:
    """The tensors of a GGUF file whose queries and keys lie as in the original (Qwen)."""
    return _tensors(config, {})


def interleaved(config: DecoderConfig) -> dict[str, Tensor]:
    """The tensors of a Llama GGUF file, whose queries and keys llama.cpp interleaved."""
    return _tensors(config, {"query": config.heads, "key": config.key_value_heads})


def gemma3(config: DecoderConfig) -> dict[str, Tensor]:
    """The tensors of a Gemma 3 GGUF file; its norms hold ``1 + scale`` already, as the parameters do."""
    table = plain(config)
    for i in range(config.layers):
        table |= norm(f"layers/{i}/attention_post_norm", f"blk.{i}.post_attention_norm", bias=False)
        table |= norm(f"layers/{i}/mlp_post_norm", f"blk.{i}.post_ffw_norm", bias=False)
    return table


def _tensors(config, heads):
    table = {"embeddings/tokens": Tensor("token_embd.weight"), "norm/scale": Tensor("output_norm.weight")}
    for i in range(config.layers):
        ours, theirs = f"layers/{i}", f"blk.{i}"
        table |= norm(f"{ours}/attention_norm", f"{theirs}.attn_norm", bias=False)
        for part, name in (("query", "attn_q"), ("key", "attn_k"), ("value", "attn_v")):
            table |= projection(f"{ours}/attention/{part}", f"{theirs}.{name}", config.biases, heads.get(part))
            if config.query_key_norms and part != "value":
                table |= norm(f"{ours}/attention/{part}_norm", f"{theirs}.{name}_norm", bias=False)
        table |= projection(f"{ours}/attention/output", f"{theirs}.attn_output", bias=False)
        table |= norm(f"{ours}/mlp_norm", f"{theirs}.ffn_norm", bias=False)
        for part in ("gate", "up", "down"):
            table |= projection(f"{ours}/mlp/{part}", f"{theirs}.ffn_{part}", bias=False)
    if not config.tied:
        table["head/kernel"] = Tensor("output.weight", transposed=True)
    return table
