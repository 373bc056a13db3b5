"""The peer: transformers and peft on torch, in a process of its own that trains when told to.

Started by `benchmarks.peer`. It reads one JSON object, loads the model folder, answers with the loss of the batch, and
then for every line ``steps N`` takes so many steps and answers with their seconds. Without transformers' trainer, so
that nothing but the step is timed.
"""

import json
import sys
import time

import numpy as np
import torch
import transformers

PROJECTIONS = {
    "bert": ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


class Classifier(torch.nn.Module):
    """An encoder, the mean over its real tokens and a dense layer."""

    def __init__(self, folder, dtype, head):
        super().__init__()
        self.network = transformers.AutoModel.from_pretrained(folder, dtype=dtype, add_pooling_layer=False)
        weight, bias = (torch.tensor(array, dtype=dtype) for array in head)
        self.classifier = torch.nn.Linear(*reversed(weight.shape))
        with torch.no_grad():
            self.classifier.weight.copy_(weight)
            self.classifier.bias.copy_(bias)

    def forward(self, input_ids, attention_mask, labels):
        hidden = self.network(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.cross_entropy(self.classifier(mean).float(), labels)


class Language(torch.nn.Module):
    """A causal language model with the labels already shifted, as the batch has them."""

    def __init__(self, folder, dtype, attention):
        super().__init__()
        self.network = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention
        )

    def forward(self, input_ids, labels):
        if self.fused:
            # Liger's loss takes hidden states; its patched forward shifts by itself, which padding undoes.
            padded = torch.nn.functional.pad(input_ids, (0, 1))
            full = torch.cat([torch.full_like(labels[:, :1], -100), labels], 1)
            return self.network(input_ids=padded, labels=full).loss
        logits = self.network(input_ids=input_ids).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


def adapted(model, options):
    """The model with peft's LoRA where the method asks for it."""
    if options["method"] == "full":
        return model
    import peft

    config = peft.LoraConfig(
        r=options["rank"], lora_alpha=2 * options["rank"], target_modules=PROJECTIONS[options["kind"]]
    )
    model.network = peft.get_peft_model(model.network, config)
    return model


def main() -> None:
    """Serves one benchmark."""
    options = json.loads(sys.stdin.readline())
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    device = "cuda" if torch.cuda.is_available() and not options["cpu"] else "cpu"
    variant, dtype = options["variant"].split("+"), getattr(torch, options["dtype"])
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest" if options["dtype"] == "float32" else "high")
    with np.load(options["arrays"]) as arrays:
        batch = {
            name: torch.tensor(arrays[name]).long().to(device) for name in arrays.files if not name.startswith("head")
        }
        head = [arrays["head_kernel"].T, arrays["head_bias"]] if "head_kernel" in arrays.files else None
    if "liger" in variant:
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama()
    if head is not None:
        model = Classifier(options["folder"], dtype, head)
    else:
        model = Language(options["folder"], dtype, "sdpa")
        model.fused = "liger" in variant
    if "checkpoint" in variant:
        model.network.gradient_checkpointing_enable({"use_reentrant": False})
    if options["method"] == "generate":
        return serve_generation(model.to(device).eval(), batch, options, device)
    model = adapted(model, options).to(device)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=options["learning_rate"], weight_decay=0.0, fused=True)
    model.eval()
    with torch.no_grad():
        loss = float(model(**batch))
    model.train(not options["deterministic"])
    run = torch.compile(model) if "compile" in variant else model

    def step():
        optimizer.zero_grad(set_to_none=True)
        value = run(**batch)
        value.backward()
        optimizer.step()
        return value.detach()

    answer({
        "loss": loss,
        "learning": sum(parameter.numel() for parameter in learning),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
    })  # fmt: skip
    serve(step, device)


def serve_generation(model, batch, options, device):
    """Greedy continuations of all prompts, of a fixed length."""
    ids, new = batch["input_ids"], options["new"]

    def step():
        with torch.no_grad():
            return model.network.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new, do_sample=False,
                pad_token_id=0, eos_token_id=None,
            )[:, ids.shape[1]:]  # fmt: skip

    answer({
        "tokens": step()[:4].tolist(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
    })  # fmt: skip
    serve(step, device)


def serve(step, device):
    """Takes steps when told to; answers with seconds, the losses and the peak memory of the device."""
    for line in sys.stdin:
        seconds, losses, busy = [], [], []
        for _ in range(int(line.split()[1])):
            begin, before = time.perf_counter(), time.process_time()
            value = step()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
            busy.append(time.process_time() - before)
            losses.append(float(value.float().mean()))
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
        answer({"seconds": seconds, "cpu_seconds": busy, "losses": losses, "peak_bytes": peak})


def answer(values):
    """One line to the benchmark."""
    print("@" + json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
