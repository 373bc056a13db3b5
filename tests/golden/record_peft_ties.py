"""Records adapters of peft on a tied table of tokens: ``python record_peft_ties.py FOLDER``.

Needs torch, transformers and peft (recorded with peft 0.21.2), and the checkpoint ``decoders/qwen3`` in the folder. For
each kind a folder ``peft_ties/<kind>`` with peft's two files and ``outputs.npz``: the logits on the checkpoint's batch,
over the adapter's own random numbers.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from peft import LoraConfig, TrainableTokensConfig, get_peft_model

BASE = "decoders/qwen3"
LORA = {"r": 2, "lora_alpha": 3}
KINDS = {
    "tied_lora": LoraConfig(**LORA, target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True),
    "tied_full": LoraConfig(
        **LORA, target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True
    ),
    "tied_tokens": LoraConfig(**LORA, target_modules=["q_proj"], trainable_token_indices=[3, 7, 11]),
    "tied_tokens_apart": LoraConfig(
        **LORA, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [3, 7], "lm_head": [5]}
    ),
    "tied_tokens_alone": TrainableTokensConfig(token_indices=[4, 2]),
}


def main() -> None:
    """Writes everything into the folder."""
    torch.set_num_threads(1)
    torch.manual_seed(5)
    folder, generator = Path(sys.argv[1]), torch.Generator().manual_seed(12)
    with np.load(folder / BASE / "outputs.npz") as arrays:
        ids, mask = (torch.tensor(arrays[f"right/{name}"]).long() for name in ("input_ids", "attention_mask"))
    for kind, config in KINDS.items():
        options = {"dtype": torch.float32, "attn_implementation": "eager"}
        model = transformers.AutoModelForCausalLM.from_pretrained(folder / BASE, **options)
        config.base_model_name_or_path = "tiny"
        model.name_or_path = "tiny"
        adapted = get_peft_model(model, config).eval()
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
            logits = adapted(input_ids=ids, attention_mask=mask).logits.numpy()
        adapted.save_pretrained(folder / "peft_ties" / kind)
        (folder / "peft_ties" / kind / "README.md").unlink()
        np.savez_compressed(folder / "peft_ties" / kind / "outputs.npz", logits=logits)


if __name__ == "__main__":
    main()
