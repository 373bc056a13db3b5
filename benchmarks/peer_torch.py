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


BETA, TEMPERATURE = 0.1, 2.0
"""Of preferences and of distillation, as `benchmarks.programs` has them by default."""


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

    def __init__(self, folder, dtype, attention, quantised=False):
        super().__init__()
        options = {}
        if quantised:
            options["quantization_config"] = transformers.BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
        self.network = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention, **options
        )
        self.fused = False

    def forward(self, input_ids, labels, weights=None):
        if self.fused:
            # Liger's loss takes hidden states; its patched forward shifts by itself, which padding undoes.
            padded = torch.nn.functional.pad(input_ids, (0, 1))
            full = torch.cat([torch.full_like(labels[:, :1], -100), labels], 1)
            return self.network(input_ids=padded, labels=full).loss
        return torch.nn.functional.cross_entropy(self.logits(input_ids).flatten(0, 1), labels.flatten())

    def logits(self, input_ids):
        return self.network(input_ids=input_ids).logits.float()


class Around(torch.nn.Module):
    """A loss of its own round an adapted language model."""

    def __init__(self, language):
        super().__init__()
        self.language, self.network = language, language.network


class Preferring(Around):
    """Direct preference optimization as trl computes it: both sides in one batch, the reference without adapters."""

    def forward(self, chosen, rejected):
        ids, labels, weights = (
            torch.cat([chosen[name], rejected[name]]) for name in ("input_ids", "labels", "weights")
        )

        def log_probabilities():
            logits = self.language.logits(ids)
            chosen = torch.gather(logits, 2, labels[..., None])[..., 0] - torch.logsumexp(logits, -1)
            return (weights * chosen).sum(1)

        with torch.no_grad(), self.network.disable_adapter():
            reference = log_probabilities()
        better, worse = (log_probabilities() - reference).chunk(2)
        return -torch.nn.functional.logsigmoid(BETA * (better - worse)).mean()


class Distilled(Around):
    """The labels' loss and the divergence from the teacher, which is the model without adapters."""

    def forward(self, input_ids, labels):
        with torch.no_grad(), self.network.disable_adapter():
            teacher = torch.log_softmax(self.language.logits(input_ids) / TEMPERATURE, -1).flatten(0, 1)
        logits = self.language.logits(input_ids).flatten(0, 1)
        student = torch.log_softmax(logits / TEMPERATURE, -1)
        divergence = torch.nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return torch.nn.functional.cross_entropy(logits, labels.flatten()) + TEMPERATURE**2 * divergence


def adapted(model, options):
    """The model with peft's adapters, and with the loss round it, where the method asks for them."""
    if options["method"] == "full":
        return model
    import peft

    config = peft.LoraConfig(
        r=options["rank"], lora_alpha=2 * options["rank"], target_modules=PROJECTIONS[options["kind"]],
        use_dora=options["method"] == "dora",
    )  # fmt: skip
    model.network = peft.get_peft_model(model.network, config)
    return {"dpo": Preferring, "distillation": Distilled}.get(options["method"], lambda model: model)(model)


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
        batch = nested({
            name: tensor(arrays[name]).to(device) for name in arrays.files if not name.startswith("head")
        })  # fmt: skip
        head = [arrays["head_kernel"].T, arrays["head_bias"]] if "head_kernel" in arrays.files else None
    if "liger" in variant:
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama()
    if head is not None:
        model = Classifier(options["folder"], dtype, head)
    else:
        model = Language(options["folder"], dtype, "sdpa", options["method"] == "qlora")
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
        # The task's own, of the chosen side of preferences, whatever loss stands round it.
        loss = float(getattr(model, "language", model)(**batch.get("chosen", batch)))
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


def tensor(array):
    """Numbers as torch reads them: whole ones are long."""
    found = torch.tensor(array)
    return found if found.is_floating_point() else found.long()


def nested(arrays):
    """``{"a/b": x}`` to ``{"a": {"b": x}}``."""
    found = {}
    for name, array in arrays.items():
        side, _, field = name.rpartition("/")
        (found.setdefault(side, {}) if side else found)[field] = array
    return found


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
