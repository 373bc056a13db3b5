"""Records adapters of peft on the tiny checkpoints beside it: ``python record_peft_names.py FOLDER``.

Those whose modules are fused, convolved, called otherwise in memory than in files, or stand under a head, and virtual
tokens before layers with a sliding window, under a head or before an encoder. For each a folder ``peft_names/<name>``
with peft's two files and ``outputs.npz``. Needs torch, transformers and peft. Prefixes of classifiers are recorded
where transformers is older than 5 (with 4.56.2 and peft 0.17.1), as peft 0.21 asks a newer one for a name that it lost.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model

LORA = {"r": 2, "lora_alpha": 3, "target_modules": "all-linear"}
CASES = {
    "gpt2_lora": ("decoders/gpt2", LoraConfig(**LORA)),
    "gpt2_ia3": (
        "decoders/gpt2",
        IA3Config(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True),
    ),
    "phi3_lora": ("decoders/phi3", LoraConfig(**LORA)),
    "phi3_dora": ("decoders/phi3", LoraConfig(**LORA, use_dora=True)),
    "phi3_ia3": (
        "decoders/phi3",
        IA3Config(target_modules=["qkv_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ),
    "modernbert_lora": ("tiny_modernbert_classifier", LoraConfig(**LORA, task_type="SEQ_CLS")),
    "roberta_lora": ("tiny_roberta_classifier", LoraConfig(**LORA, task_type="SEQ_CLS")),
    "bert_lora": ("tiny_bert_classifier", LoraConfig(**LORA)),
    "vit_lora": ("tiny_vit", LoraConfig(**LORA)),
    "dinov2_lora": ("tiny_dinov2_swiglu", LoraConfig(**LORA)),
    "whisper_lora": ("tiny_whisper", LoraConfig(**LORA)),
    "mistral_prefix": ("decoders/mistral", PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
    "mistral_prompt": ("decoders/mistral", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
    "gemma3_prompt": ("decoders/gemma3", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
    "mixtral_experts": (
        "decoders/mixtral",
        LoraConfig(
            r=2,
            lora_alpha=3,
            target_modules=["q_proj"],
            rank_pattern={"experts.down_proj": 3},
            target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        ),
    ),
    "qwen3_moe_experts": (
        "decoders/qwen3_moe",
        LoraConfig(
            r=2,
            lora_alpha=3,
            target_modules=[],
            use_rslora=True,
            target_parameters=["model.layers.1.mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        ),
    ),
    "qwen3_tagger_prompt": ("tiny_qwen3_tagger", PromptTuningConfig(task_type="TOKEN_CLS", num_virtual_tokens=3)),
    "roberta_tagger_prompt": (
        "tiny_roberta_tagger",
        PromptEncoderConfig(task_type="TOKEN_CLS", num_virtual_tokens=3, encoder_hidden_size=8),
    ),
    "t5_prompt": (
        "tiny_t5",
        PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3, num_transformer_submodules=1),
    ),
}
"""The checkpoint and the adapter; a list of targets of GPT-2 names modules of two kinds alike."""

BEFORE = {
    "bert_prefix": ("tiny_bert_classifier", PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)),
    "llama_reward_prefix": ("tiny_llama_reward", PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)),
}
"""Those that want transformers before 5."""


def inputs_of(folder):
    """The recorded inputs of a checkpoint, as transformers takes them."""
    with np.load(folder / "outputs.npz") as arrays:
        start = "right/" if "right/input_ids" in arrays else "input/"
        fields = ("input_ids", "attention_mask", "pixel_values", "input_features", "decoder_input_ids", "labels")
        return {x: torch.tensor(arrays[start + x]) for x in fields if start + x in arrays}


def main() -> None:
    """Writes everything into the folder."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    transformers.utils.logging.set_verbosity_error()
    root, generator = Path(sys.argv[1]), torch.Generator().manual_seed(4)
    new = int(transformers.__version__.partition(".")[0]) >= 5
    for name, (checkpoint, config) in (CASES if new else BEFORE).items():
        described = json.loads((root / checkpoint / "config.json").read_text(encoding="utf-8"))
        kind = getattr(transformers, described["architectures"][0])
        model = get_peft_model(kind.from_pretrained(root / checkpoint, attn_implementation="eager"), config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
            outputs = model(**inputs_of(root / checkpoint))
        result = outputs.logits if "logits" in outputs else outputs.last_hidden_state
        if ("prompt" in name or "prefix" in name) and result.ndim == 3:
            result = result[:, -inputs_of(root / checkpoint)["input_ids"].shape[1] :]
        model.save_pretrained(root / "peft_names" / name)
        (root / "peft_names" / name / "README.md").unlink(missing_ok=True)
        np.savez_compressed(root / "peft_names" / name / "outputs.npz", outputs=result.numpy())


if __name__ == "__main__":
    main()
