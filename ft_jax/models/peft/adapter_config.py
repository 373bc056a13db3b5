"""Types and ranges of every field of adapter_config.json that a kind reads; what is not here is not seen by one."""

from typing import Annotated

from pydantic import Field

from ft_jax.outside import fields
from ft_jax.outside.schema import Count, Layers, Number, Positive, Share, Size, Some, Word

Rank = Annotated[int, Field(ge=0, le=2**20)]
"""Of an adapter; peft writes 0 for rotations of a given size of blocks."""

Adapter = fields(
    "Adapter",
    {
        Word: "peft_type base_model_name_or_path task_type bias peft_version prompt_tuning_init "
        "encoder_reparameterization_type tokenizer_name_or_path",
        Rank: "r init_r",
        Size: "num_virtual_tokens adapter_len token_dim encoder_hidden_size n_frequency",
        Layers: "adapter_layers num_layers num_attention_heads num_transformer_submodules encoder_num_layers "
        "num_cayley_neumann_terms",
        Count: "total_step tinit tfinal deltaT projection_prng_key oft_block_size boft_block_size boft_block_num "
        "boft_n_butterfly_factor random_loc_seed",
        Annotated[int, Field(ge=-1, lt=2**31)]: "decompose_factor",
        Number: "lora_alpha alpha scaling target_r orth_reg_weight",
        Positive: "eps",
        Share: "beta1 beta2 lora_dropout vera_dropout encoder_dropout boft_dropout oft_dropout",
        Number | bool: "d_initial",
        bool: "use_rslora use_dora fan_in_fan_out inference_mode save_projection decompose_both block_share coft "
        "use_cayley_neumann prefix_projection apply_GS ensure_weight_tying lora_bias",
        bool | Word: "init_lora_weights init_weights init_ia3_weights",
        Word | Some[Word]: "target_modules exclude_modules modules_to_save feedforward_modules",
        Some[Count] | dict[str, Some[Count]]: "token_indices trainable_token_indices",
        Some[Word]: "target_parameters",
        dict[str, Rank] | dict[str, list[bool]]: "rank_pattern",
        dict[str, Size]: "n_frequency_pattern",
        dict[str, Number]: "alpha_pattern",
    },
)  # fmt: skip
