"""Records a tiny random checkpoint of each decoder architecture and what transformers gives for it.

Runs in an environment with torch and transformers, which the package itself never needs::

    python tests/golden/record_decoders.py [tests/golden/decoders] [--gemma3 GGUF]

Each architecture gets a folder with config.json, model.safetensors and outputs.npz: hidden states and logits of
three batches (padded right, padded left, short), gradients of the language-model loss for the tensors of one
layer, the norms and the token table, a greedy continuation, and of a mixture the load-balance loss. Of Gemma 3
270M, where its GGUF file is given: tokens, strided logits and a greedy continuation, in gemma3_270m.npz beside
the folder.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

HERE = Path(__file__).parent
NEW_TOKENS = 12

COMMON = {
    "vocab_size": 48, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    "attn_implementation": "eager",
}  # fmt: skip
EXPERTS = {"num_hidden_layers": 2, "num_experts_per_tok": 2, "sliding_window": None}

ARCHITECTURES = {
    "llama": ("Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False, "head_dim": 8}),
    "mistral": ("Mistral", {"sliding_window": 4, "head_dim": 8}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}),
    "smollm3": ("SmolLM3", {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 5}),
    "gemma": ("Gemma", {"head_dim": 8, "num_hidden_layers": 2}),
    "gemma2": ("Gemma2", {
        "head_dim": 8, "sliding_window": 4, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0,
        "query_pre_attn_scalar": 6,
    }),
    "gemma3": ("Gemma3Text", {
        "head_dim": 8, "sliding_window": 4, "sliding_window_pattern": 2, "query_pre_attn_scalar": 6,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    }),
    "phi3": ("Phi3", {
        "sliding_window": 5, "original_max_position_embeddings": 8, "hidden_size": 32, "num_hidden_layers": 2,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 100.0, "partial_rotary_factor": 0.5,
            "short_factor": [1.0, 1.2], "long_factor": [1.5, 4.0], "original_max_position_embeddings": 8,
        },
    }),
    "gpt2": ("GPT2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "tie_word_embeddings": True}),
    "mixtral": ("Mixtral", {**EXPERTS, "num_local_experts": 4}),
    "qwen3_moe": ("Qwen3Moe", {
        **EXPERTS, "num_experts": 4, "moe_intermediate_size": 8, "head_dim": 8, "norm_topk_prob": False,
    }),
}  # fmt: skip

ROPES = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "yarn": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "beta_fast": 8.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "longrope": {
        "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.5, 2.0], "long_factor": [1.0, 2.0, 4.0, 8.0],
        "original_max_position_embeddings": 32, "factor": 2.0,
    },
}  # fmt: skip


def batches():
    """Rows of random tokens by name, with masks and positions counted from the first real token."""
    generator = torch.Generator().manual_seed(7)
    for name, lengths, left in (("right", (11, 7, 1), False), ("left", (11, 7, 1), True), ("short", (6, 3), False)):
        longest = max(lengths)
        ids = torch.randint(3, 48, (len(lengths), longest), generator=generator)
        place, rows = torch.arange(longest)[None], torch.tensor(lengths)[:, None]
        mask = (place >= longest - rows if left else place < rows).long()
        yield name, ids * mask, mask, (mask.cumsum(1) - 1).clamp(min=0)


def loss(logits, ids, mask):
    """Mean negative log-likelihood of the real tokens that follow a real one."""
    scores = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    weights = mask[:, 1:] * mask[:, :-1]
    return -(scores * weights).sum() / weights.sum()


def stored_gradients(model):
    """Gradients by the names of the checkpoint; transformers holds experts in one tensor and stores them apart."""
    experts = {"mixtral": ("block_sparse_moe.experts", "w1", "w3", "w2")}.get(
        model.config.model_type, ("mlp.experts", "gate_proj", "up_proj", "down_proj")
    )
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.numpy()
        layer, found, part = name.partition(".mlp.experts.")
        if not found:
            yield name.replace(".mlp.gate.", ".block_sparse_moe.gate." if "mixtral" in model.config.model_type
                               else ".mlp.gate."), gradient  # fmt: skip
            continue
        for index, own in enumerate(gradient):
            prefix = f"{layer}.{experts[0]}.{index}"
            if part == "down_proj":
                yield f"{prefix}.{experts[3]}.weight", own
            else:
                gate, up = np.split(own, 2)
                yield f"{prefix}.{experts[1]}.weight", gate
                yield f"{prefix}.{experts[2]}.weight", up


def record(name: str, folder: Path) -> None:
    """One architecture."""
    family, changes = ARCHITECTURES[name]
    config = getattr(transformers, f"{family}Config")(**COMMON | changes)
    suffix = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    model = getattr(transformers, {"Gemma3Text": "Gemma3"}.get(family, family) + suffix)(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            # Norm scales stay near their start and biases are not zero, so that every parameter shows.
            parameter.copy_(parameter + 0.1 * noise if parameter.ndim == 1 else 0.25 * noise)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    arrays = {}
    for side, ids, mask, positions in batches():
        model.zero_grad()
        mixture = {"output_router_logits": True} if "num_experts_per_tok" in changes else {}
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        outputs = model(**inputs, output_hidden_states=True, **mixture)
        arrays |= {f"{side}/input_ids": ids.numpy(), f"{side}/attention_mask": mask.numpy()}
        arrays |= {f"{side}/hidden/{i}": x.detach().numpy() for i, x in enumerate(outputs.hidden_states) if i}
        arrays[f"{side}/logits"] = outputs.logits.detach().numpy()
        if mixture:
            arrays[f"{side}/balance"] = outputs.aux_loss.detach().numpy()
        if side == "left":
            loss(outputs.logits, ids, mask).backward()
            names = set(load_file(folder / "model.safetensors"))
            gradients = dict(stored_gradients(model))
            if not set(gradients) <= names:
                raise RuntimeError(f"{name}: gradients of {sorted(set(gradients) - names)} are of no stored tensor")
            kept = {key: x for key, x in gradients.items() if "embed" in key or "wte" in key or "norm" in key
                    or ".1." in key}  # fmt: skip
            arrays |= {f"gradient/{key}": x for key, x in kept.items()}
    first = torch.tensor(arrays["right/input_ids"][:1])
    with torch.no_grad():
        out = model.generate(first, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None)
    arrays["greedy"] = out[0, first.shape[1] :].numpy()
    np.savez_compressed(folder / "outputs.npz", **arrays)


def ropes(path: Path) -> None:
    """Frequencies and magnitude of each scaling at two lengths, and its config.json entries."""
    arrays = {"parameters": np.array(json.dumps(ROPES))}
    for name, rope in ROPES.items():
        config = transformers.LlamaConfig(
            hidden_size=32, num_attention_heads=4, max_position_embeddings=64,
            rope_parameters={"rope_theta": 500.0, **rope},
        )  # fmt: skip
        for length in (20, 100):
            frequencies, magnitude = ROPE_INIT_FUNCTIONS[name](config, "cpu", seq_len=length)
            arrays |= {f"{name}/{length}": frequencies.numpy(), f"{name}/magnitude": np.float32(magnitude)}
    np.savez_compressed(path, **arrays)


TEXTS = ["The capital of France is", "naïve café — £5!\n\n  two spaces", "def fibonacci(n):\n    return"]


def gemma3(gguf: Path, path: Path) -> None:
    """The real Gemma 3 270M, through transformers' own reader of GGUF files."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, attn_implementation="eager", dtype=torch.float32
    ).eval()
    arrays = {"texts": np.array(TEXTS)}
    for i, text in enumerate(TEXTS):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            arrays |= {f"input_ids/{i}": ids[0].numpy(), f"strided/{i}": model(ids).logits[0, :, ::4099].numpy()}
    first = torch.tensor(arrays["input_ids/0"])[None]
    out = model.generate(first, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None)
    np.savez_compressed(path, greedy=out[0, first.shape[1] :].numpy(), **arrays)


def main() -> None:
    """Records every architecture, in place of what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, nargs="?", default=HERE / "decoders")
    parser.add_argument("--gemma3", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(arguments.target, ignore_errors=True)
    for name in ARCHITECTURES:
        record(name, arguments.target / name)
    ropes(arguments.target / "ropes.npz")
    if arguments.gemma3:
        gemma3(arguments.gemma3, arguments.target.parent / "gemma3_270m.npz")


if __name__ == "__main__":
    main()
