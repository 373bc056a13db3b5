"""Records peft's LoRA and IA3 on tiny random Llama and BERT models: ``python record_peft.py FOLDER``.

Needs torch, transformers and peft (recorded with peft 0.21.2). For each model one ``peft_<model>.npz`` with the base's
weights, a batch, and for each adapter kind its random weights, the outputs, the gradients of
``sum(outputs * probe)`` and the count of parameters that learn.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

BATCH, TIME, VOCABULARY, WIDTH = 3, 7, 24, 16


def llama():
    """A decoder with grouped queries, biases everywhere and a head of its own; its logits are compared."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=24, max_position_embeddings=16, attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
        attn_implementation="eager",
    )  # fmt: skip
    adapters = {
        "lora": LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", lora_dropout=0.0),
        "ia3": IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    }
    return config, LlamaForCausalLM(config), adapters, "logits"


def bert():
    """An encoder, whose last hidden states are compared."""
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )  # fmt: skip
    inner = r".*layer\.\d+\.output\.dense"
    adapters = {
        "lora": LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", lora_dropout=0.0),
        "ia3": IA3Config(target_modules=rf".*\.self\.(key|value)|{inner}", feedforward_modules=inner),
    }
    return config, BertModel(config, add_pooling_layer=False), adapters, "last_hidden_state"


def randomise(model, generator, trainable_only):
    """Draws every parameter (or those that learn) around its value, biases and norms too."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad or not trainable_only:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def record(build, seed):
    """Everything one file holds."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    _, model, adapters, field = build()
    randomise(model, generator, trainable_only=False)
    ids = torch.randint(VOCABULARY, (BATCH, TIME), generator=generator)
    mask = (torch.arange(TIME)[None] < torch.tensor([TIME, 5, 3])[:, None]).long()
    base = {name: value.clone() for name, value in model.state_dict().items()}
    result = {f"base/{name}": value.numpy() for name, value in base.items()}
    result |= {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    probe = torch.randn(getattr(model(ids, attention_mask=mask), field).shape, generator=generator) * mask[..., None]
    result["probe"] = probe.numpy()
    for kind, config in adapters.items():
        _, fresh, _, _ = build()
        fresh.load_state_dict(base)
        adapted = get_peft_model(fresh, config).eval()
        randomise(adapted, generator, trainable_only=True)
        outputs = getattr(adapted(input_ids=ids, attention_mask=mask), field)
        (outputs * probe).sum().backward()
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                name = name.removeprefix("base_model.model.").replace(".default", "").removesuffix(".weight")
                result[f"{kind}/weight/{name}"] = parameter.detach().numpy()
                result[f"{kind}/gradient/{name}"] = parameter.grad.numpy()
        result[f"{kind}/outputs"] = outputs.detach().numpy()
        result[f"{kind}/trainable"] = np.array(adapted.get_nb_trainable_parameters()[0])
    return result


def main() -> None:
    """Writes both files."""
    for seed, build in enumerate((llama, bert)):
        np.savez_compressed(Path(sys.argv[1]) / f"peft_{build.__name__}.npz", **record(build, seed))


if __name__ == "__main__":
    main()
