"""Records adapters as peft saves them, on the models of ``record_peft.py``: ``python record_peft_files.py FOLDER``.

Needs torch, transformers and peft (recorded with peft 0.21.2). For each kind of adapter a folder ``peft/<kind>`` with
its two files, drawn at random, and in ``peft_kinds.npz`` the outputs on the recorded batch, the gradients of
``sum(outputs * probe)`` by tensor name and the count of parameters that learn.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    FourierFTConfig,
    HRAConfig,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    TrainableTokensConfig,
    VeraConfig,
    get_peft_model,
)
from peft.tuners.boft.layer import BOFTLayer
from record_peft import bert, llama, randomise
from transformers import BertForSequenceClassification

FEW = ["q_proj", "o_proj", "down_proj"]
KINDS = {
    "lora_patterns": LoraConfig(
        r=4, lora_alpha=6, target_modules="all-linear", exclude_modules=["o_proj"], use_rslora=True, lora_dropout=0.1,
        rank_pattern={r"layers\.1\.mlp\.up_proj": 2}, alpha_pattern={"k_proj": 3}, bias="lora_only",
    ),
    "dora": LoraConfig(r=4, lora_alpha=6, target_modules=[*FEW, "lm_head"], use_dora=True),
    "pissa": LoraConfig(r=2, lora_alpha=3, target_modules=FEW, init_lora_weights="pissa"),
    "olora": LoraConfig(r=2, lora_alpha=3, target_modules=FEW, init_lora_weights="olora"),
    "vera": VeraConfig(r=5, target_modules=FEW),
    "vera_drawn": VeraConfig(r=5, target_modules=FEW, save_projection=False, projection_prng_key=7),
    "loha": LoHaConfig(r=2, alpha=3, target_modules=FEW, rank_pattern={"o_proj": 3}),
    "lokr": LoKrConfig(r=1, alpha=3, target_modules=FEW),
    "lokr_both": LoKrConfig(r=1, alpha=3, target_modules=FEW, decompose_both=True, decompose_factor=4),
    "oft": OFTConfig(r=0, oft_block_size=4, target_modules=FEW),
    "oft_exact": OFTConfig(r=2, oft_block_size=0, target_modules=FEW, use_cayley_neumann=False),
    "oft_shared": OFTConfig(r=0, oft_block_size=8, target_modules=FEW, block_share=True, num_cayley_neumann_terms=3),
    "oft_constrained": OFTConfig(r=0, oft_block_size=4, target_modules=FEW, coft=True, eps=0.3),
    "boft": BOFTConfig(boft_block_size=0, boft_block_num=4, target_modules=FEW),
    "ln_tuning": LNTuningConfig(target_modules=["input_layernorm", "norm"]),
}  # fmt: skip
LATER = {
    "fourierft": FourierFTConfig(
        n_frequency=20, scaling=40.0, target_modules=FEW, random_loc_seed=5, n_frequency_pattern={"o_proj": 11}
    ),
    "hra": HRAConfig(r=3, target_modules=FEW),
    "hra_orthogonal": HRAConfig(r=3, target_modules=FEW, apply_GS=True),
    "lora_bias": LoraConfig(r=2, lora_alpha=3, target_modules=FEW, lora_bias=True),
    "lora_tokens": LoraConfig(r=2, lora_alpha=3, target_modules=FEW, trainable_token_indices=[3, 7, 11]),
    "lora_tokens_both": LoraConfig(
        r=2, lora_alpha=3, target_modules=FEW, trainable_token_indices={"embed_tokens": [3, 7], "lm_head": [5, 2, 9]}
    ),
    "trainable_tokens": TrainableTokensConfig(token_indices=[1, 20, 9]),
    "lora_parameters": LoraConfig(r=2, lora_alpha=3, target_modules=[], target_parameters=["q_proj.weight"]),
    "adalora": AdaLoraConfig(
        init_r=4, target_r=2, lora_alpha=6, total_step=8, tinit=1, tfinal=2, target_modules=FEW, orth_reg_weight=0.1
    ),
}  # fmt: skip
"""Recorded after the others, whose random numbers they leave as they were."""

WIDTHS = ((16, 4, 2), (24, 4, 2), (32, 2, 4), (64, 4, 4))
"""Inputs, block edge and number of factors of recorded butterfly permutations."""


def stored_name(name):
    """The name that peft saves a parameter under."""
    name = name.replace(".default", "")
    return name.removesuffix(".weight") if "lora_magnitude_vector" in name else name


def base_of(file):
    """The base's weights in a file of ``record_peft.py``."""
    return {name.removeprefix("base/"): torch.tensor(file[name]) for name in file.files if name.startswith("base/")}


def allocated(adapted, ids, mask, probe):
    """Trains an AdaLoRA for its steps, with the allocation that peft leaves to the loop."""
    optimizer = torch.optim.SGD([x for x in adapted.parameters() if x.requires_grad], lr=0.01)
    for step in range(1, 9):
        optimizer.zero_grad()
        (adapted(input_ids=ids, attention_mask=mask).logits * probe).sum().backward()
        optimizer.step()
        adapted.base_model.update_and_allocate(step)


def record(kind, config, folder, file, generator):
    """Saves the adapter `kind` and returns what belongs to it in ``peft_kinds.npz``."""
    ids, mask, probe = (torch.tensor(file[name]) for name in ("input_ids", "attention_mask", "probe"))
    model = llama()[1]
    model.load_state_dict(base_of(file))
    adapted = get_peft_model(model, config).eval()
    randomise(adapted, generator, trainable_only=True)
    if kind == "adalora":
        allocated(adapted, ids, mask, probe)
    adapted.save_pretrained(folder / "peft" / kind)
    if kind == "adalora":
        # What it saves is without the triplets that it zeroed.
        model = llama()[1]
        model.load_state_dict(base_of(file))
        adapted = PeftModel.from_pretrained(model, str(folder / "peft" / kind), is_trainable=True).eval()
    outputs = adapted(input_ids=ids, attention_mask=mask).logits
    (outputs * probe).sum().backward()
    result = {
        f"{kind}/outputs": outputs.detach().numpy(),
        f"{kind}/trainable": adapted.get_nb_trainable_parameters()[0],
    }
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            result[f"{kind}/gradient/{stored_name(name)}"] = parameter.grad.numpy()
    return result


def record_classifier(folder, file, generator):
    """A LoRA beside a classifier that learns in full; its hidden states, as the library here pools otherwise."""
    ids, mask = (torch.tensor(file[name]) for name in ("input_ids", "attention_mask"))
    model = BertForSequenceClassification(bert()[0])
    model.bert.load_state_dict(base_of(file), strict=False)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["query", "value"], task_type="SEQ_CLS")
    adapted = get_peft_model(model, config).eval()
    randomise(adapted, generator, trainable_only=True)
    adapted.save_pretrained(folder / "peft" / "classifier")
    hidden = adapted.base_model.model.bert(input_ids=ids, attention_mask=mask).last_hidden_state
    return {"classifier/outputs": hidden.detach().numpy()}


def main() -> None:
    """Writes everything into the folder."""
    torch.set_num_threads(1)
    torch.manual_seed(5)
    folder, generator, result = Path(sys.argv[1]), torch.Generator().manual_seed(11), {}
    file = np.load(folder / "peft_llama.npz")
    for kind, config in KINDS.items():
        result |= record(kind, config, folder, file, generator)
    result |= record_classifier(folder, np.load(folder / "peft_bert.npz"), generator)
    for kind, config in LATER.items():
        result |= record(kind, config, folder, file, generator)
    for width, edge, factors in WIDTHS:
        for i in range(factors):
            order = BOFTLayer.block_butterfly_perm(None, width, width // edge // 2**i, edge // 2, factors - 1)
            result[f"permutation/{width}/{edge}/{i}"] = order.numpy()
    np.savez_compressed(folder / "peft_kinds.npz", **result)
    for readme in (folder / "peft").glob("*/README.md"):
        readme.unlink()


if __name__ == "__main__":
    main()
