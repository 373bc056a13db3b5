"""Types and ranges of every field that is read of config.json, generation_config.json and GGUF metadata.

A field means the same in every architecture that has it, so each stands here once. What is not here is not seen by
`Architecture.read`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ft_jax.outside import Refused, checked, fields, printable
from ft_jax.outside.schema import Count, Layers, Number, Positive, Share, Size, Some, Text, Word

Token = Annotated[int, Field(ge=-1, lt=2**31)]
Experts = Annotated[int, Field(ge=1, le=4096)]
Index = Annotated[int, Field(ge=-10_000, le=10_000)]

Rope = fields(
    "Rope",
    {
        Word: "rope_type type",
        Positive: "rope_theta factor low_freq_factor high_freq_factor attention_factor beta_fast beta_slow",
        Number: "mscale mscale_all_dim",
        Size: "original_max_position_embeddings",
        Share: "partial_rotary_factor",
        Some[Positive]: "short_factor long_factor",
        bool: "truncate",
    },
)
Ropes = fields("Ropes", {Rope: "full_attention sliding_attention"}, **{
    name: field.annotation for name, field in Rope.model_fields.items()
})  # fmt: skip

Network = fields(
    "Network",
    {
        Word: "model_type hidden_act hidden_activation activation activation_function classifier_activation "
        "feed_forward_proj projector_hidden_act position_embedding_type vision_feature_select_strategy problem_type "
        "classifier_pooling torch_dtype dtype",
        Layers: "num_hidden_layers n_layers n_layer num_layers num_decoder_layers encoder_layers decoder_layers "
        "sliding_window_pattern global_attn_every_n_layers no_rope_layer_interval decoder_sparse_step",
        Size: "vocab_size hidden_size intermediate_size num_attention_heads num_key_value_heads head_dim "
        "max_position_embeddings original_max_position_embeddings dim hidden_dim n_heads n_embd n_head n_inner "
        "n_positions d_model d_kv d_ff num_heads relative_attention_num_buckets relative_attention_max_distance "
        "encoder_attention_heads decoder_attention_heads encoder_ffn_dim decoder_ffn_dim num_mel_bins "
        "max_source_positions max_target_positions num_channels projection_dim projection_size "
        "local_attention sliding_window type_vocab_size num_labels moe_intermediate_size",
        Experts: "num_local_experts num_experts num_experts_per_tok",
        Count: "max_window_layers image_token_index image_token_id",
        Token: "pad_token_id decoder_start_token_id bos_token_id",
        Token | Some[Token]: "eos_token_id",
        Size | Some[Size]: "image_size patch_size",
        Index | Some[Index]: "vision_feature_layer",
        Positive: "layer_norm_eps layer_norm_epsilon rms_norm_eps norm_eps rope_theta rope_local_base_freq "
        "global_rope_theta local_rope_theta query_pre_attn_scalar final_logit_softcapping attn_logit_softcapping "
        "mlp_ratio",
        Share: "hidden_dropout_prob attention_probs_dropout_prob attention_dropout dropout dropout_rate resid_pdrop "
        "embd_pdrop attn_pdrop embedding_dropout mlp_dropout partial_rotary_factor",
        bool: "tie_word_embeddings attention_bias mlp_bias norm_bias classifier_bias decoder_bias qkv_bias "
        "use_sliding_window norm_topk_prob use_swiglu_ffn use_mask_token scale_attn_weights scale_embedding "
        "scale_decoder_outputs vision_use_head multimodal_projector_bias "
        "scale_attn_by_inverse_layer_idx add_cross_attention",
        bool | Word: "use_bidirectional_attention",
        Some[Word]: "architectures layer_types",
        Some[Index]: "mlp_only_layers",
        Some[bool | Index]: "no_rope_layers",
        Annotated[dict[str, Word], Field(max_length=1_000_000)]: "id2label",
        Rope: "rope_scaling",
        Ropes: "rope_parameters",
        fields("Quantization", {Annotated[list[Size], Field(min_length=2, max_length=2)]: "weight_block_size"}):
        "quantization_config",
        dict[str, Any]: "ft_jax_head",
    },
)  # fmt: skip

Config = fields(
    "Config",
    {Network: "text_config vision_config"},
    **{name: field.annotation for name, field in Network.model_fields.items()},
)

Generation = fields("Generation", {Token | Some[Token]: "eos_token_id", Token: "pad_token_id"})

GGUF = fields(
    "GGUF",
    {
        Word: "general.architecture rope.scaling.type tokenizer.ggml.model tokenizer.ggml.pre",
        Size: "embedding_length attention.head_count attention.head_count_kv attention.key_length feed_forward_length "
        "context_length attention.sliding_window general.alignment",
        Layers: "block_count",
        Positive: "rope.freq_base rope.freq_base_swa rope.scaling.factor attention.layer_norm_rms_epsilon",
        Count: "tokenizer.ggml.bos_token_id tokenizer.ggml.eos_token_id tokenizer.ggml.unknown_token_id "
        "tokenizer.ggml.padding_token_id",
        bool: "tokenizer.ggml.add_bos_token tokenizer.ggml.add_space_prefix",
        Annotated[list[Text], Field(max_length=10_000_000)]: "tokenizer.ggml.tokens tokenizer.ggml.merges",
        Annotated[list[Number], Field(max_length=10_000_000)]: "tokenizer.ggml.scores",
        Annotated[list[Count], Field(max_length=10_000_000)]: "tokenizer.ggml.token_type",
        Text: "tokenizer.chat_template",
        Annotated[list[Positive], Field(max_length=100_000)]: "rope_freqs.weight",
    },
)
"""Fields of an architecture without its name before them, and the others with theirs."""


def read_config(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The fields of config.json that are known here.

    Raises:
      Refused: one is of another type or out of its range.
    """
    return checked(Config, content, str(path))


def read_generation(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The fields of generation_config.json that are known here.

    Raises:
      Refused: one is of another type or out of its range.
    """
    return checked(Generation, content, str(path))


def check_metadata(metadata: Mapping[str, Any], path: Path) -> None:
    """Raises Refused where a field of a GGUF file is of another type or out of its range, or a token doesn't exist."""
    kind = metadata.get("general.architecture")
    if not isinstance(kind, str):
        raise Refused(f"{path} has general.architecture {printable(kind, 40)}, which should be a name; get it again")
    checked(GGUF, {name.removeprefix(f"{kind}."): value for name, value in metadata.items()}, str(path))
    count = len(metadata.get("tokenizer.ggml.tokens") or ())
    for name in ("bos", "eos", "unknown", "padding"):
        token = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if count and token is not None and token >= count:
            raise Refused(f"{path} has tokenizer.ggml.{name}_token_id {token} and {count} tokens; get it again")
