"""Records peft's prompt methods on tiny random Llama and BERT models: ``python record_peft_attention.py FOLDER``.

Needs torch, transformers and peft (recorded with peft 0.21.2). For each model one ``peft_attention_<model>.npz``
with the base's weights, a batch, and for each kind its random weights, the outputs at the real tokens, the
gradients of ``sum(outputs * probe)``, the count of parameters that learn and what peft saves.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import (
    AdaptionPromptConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

BATCH, TIME, VOCABULARY, WIDTH, LENGTH = 3, 6, 24, 16, 3


def llama():
    """A decoder with grouped queries; its logits are compared."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=24, max_position_embeddings=16, tie_word_embeddings=False, attn_implementation="eager",
    )  # fmt: skip
    task = {"task_type": "CAUSAL_LM", "num_virtual_tokens": LENGTH}
    adapters = {
        "prefix": PrefixTuningConfig(**task),
        "prefix_projection": PrefixTuningConfig(**task, prefix_projection=True, encoder_hidden_size=5),
        "prompt": PromptTuningConfig(**task),
        "p_tuning_mlp": PromptEncoderConfig(**task, encoder_hidden_size=6),
        "p_tuning_lstm": PromptEncoderConfig(**task, encoder_hidden_size=4, encoder_reparameterization_type="LSTM"),
        "adaption": AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=LENGTH, adapter_layers=1),
    }
    return LlamaForCausalLM(config), adapters, "logits"


def bert():
    """An encoder, whose last hidden states are compared."""
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )  # fmt: skip
    task = {"task_type": "FEATURE_EXTRACTION", "num_virtual_tokens": LENGTH}
    adapters = {
        "prefix": PrefixTuningConfig(**task),
        "prompt": PromptTuningConfig(**task),
        "p_tuning_mlp": PromptEncoderConfig(**task, encoder_hidden_size=6),
    }
    return BertModel(config, add_pooling_layer=False), adapters, "last_hidden_state"


def randomise(model, generator, trainable_only):
    """Draws every parameter (or those that learn) around its value, biases and norms too."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad or not trainable_only:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def saved(adapted) -> dict[str, np.ndarray]:
    """What peft writes to its file."""
    with tempfile.TemporaryDirectory() as folder:
        adapted.save_pretrained(folder)
        return {name: value.numpy() for name, value in load_file(Path(folder) / "adapter_model.safetensors").items()}


def record(build, seed):
    """Everything one file holds."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model, adapters, field = build()
    randomise(model, generator, trainable_only=False)
    ids = torch.randint(VOCABULARY, (BATCH, TIME), generator=generator)
    mask = (torch.arange(TIME)[None] < torch.tensor([TIME, 4, 3])[:, None]).long()
    base = {name: value.clone() for name, value in model.state_dict().items()}
    result = {f"base/{name}": value.numpy() for name, value in base.items()}
    result |= {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    probe = torch.randn(getattr(model(ids, attention_mask=mask), field).shape, generator=generator) * mask[..., None]
    result["probe"] = probe.numpy()
    for kind, config in adapters.items():
        fresh, _, _ = build()
        fresh.load_state_dict(base)
        adapted = get_peft_model(fresh, config).eval()
        randomise(adapted, generator, trainable_only=True)
        outputs = getattr(adapted(input_ids=ids, attention_mask=mask), field)[:, -TIME:]
        (outputs * probe).sum().backward()
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                name = name.removeprefix("base_model.model.").replace(".default", "")
                result[f"{kind}/weight/{name}"] = parameter.detach().numpy().copy()
                result[f"{kind}/gradient/{name}"] = parameter.grad.numpy()
        result |= {f"{kind}/saved/{name}": value for name, value in saved(adapted).items()}
        result[f"{kind}/outputs"] = outputs.detach().numpy()
        result[f"{kind}/trainable"] = np.array(adapted.get_nb_trainable_parameters()[0])
    return result


def main() -> None:
    """Writes both files."""
    for seed, build in enumerate((llama, bert)):
        np.savez_compressed(Path(sys.argv[1]) / f"peft_attention_{build.__name__}.npz", **record(build, seed))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
