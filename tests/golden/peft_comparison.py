"""Each adapter that peft recorded, run here: the arrays to compare, for tests and for the table of adapters.

``PYTHONPATH=tests python -m golden.peft_comparison`` writes the largest relative difference of each method to
``benchmarks/results/parity.jsonl``, which ``python -m benchmarks.adapters`` reads.
"""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from golden.peft_reference import CONFIGS, FOLDER, Reference
from golden.peft_reference import load as load_plain
from safetensors.numpy import load_file

from ft_jax import attention, transfer
from ft_jax.core import Method, make_step, merge, parameters, supervised
from ft_jax.core.params import count, map_with_path, paths
from ft_jax.models import Model, load_adapter
from ft_jax.models.architectures import bert, llama, nested
from ft_jax.models.model import Forward
from ft_jax.models.peft.formats import formats
from ft_jax.models.peft.holders import held
from ft_jax.models.peft.modules import modules_of
from ft_jax.models.peft.tokens import KIND, tokens_beside

RESULTS = Path(__file__).parents[2] / "benchmarks/results/parity.jsonl"
KINDS = [path.name for path in sorted((FOLDER / "peft").iterdir()) if path.name != "classifier"]
"""Folders that peft saved."""
LORAS = ("dora", "pissa", "olora")
"""Those that peft's files call LoRA and the catalogue gives names of their own."""
LENGTH = 3
VIRTUAL = {
    "prefix": lambda: attention.prefix_tuning(LENGTH),
    "prefix_projection": lambda: attention.prefix_tuning(LENGTH, projection=5),
    "prompt": lambda: attention.prompt_tuning(LENGTH),
    "p_tuning_mlp": lambda: attention.p_tuning(LENGTH, hidden=6),
    "p_tuning_lstm": lambda: attention.p_tuning(LENGTH, hidden=4, encoder="lstm"),
    "adaption": lambda: attention.llama_adapter(LENGTH, layers=1),
}
"""Peft's prompt methods, whose arrays are recorded one by one."""
CASES = [("llama", kind) for kind in VIRTUAL] + [("bert", kind) for kind in ("prefix", "prompt", "p_tuning_mlp")]
PLAIN = dataclasses.replace(CONFIGS["llama"], biases=False, output_bias=False, mlp_biases=False)
LSTM = {"input": "weight_ih", "recurrent": "weight_hh", "input_bias": "bias_ih", "recurrent_bias": "bias_hh"}


@dataclasses.dataclass(frozen=True)
class Compared:
    """What one adapter gives here beside what peft gives.

    Attributes:
      method: its name in the catalogue.
      outputs: ``(here, peft's)`` of the real tokens.
      merged: ``(here after merging, peft's)``, or None for what can't be merged.
      gradients: by name, ``(here, peft's)``.
      trainable: ``(here, peft's)``, how many parameters learn.
    """

    method: str
    outputs: tuple[np.ndarray, np.ndarray]
    merged: tuple[np.ndarray, np.ndarray] | None
    gradients: dict[str, tuple[np.ndarray, np.ndarray]]
    trainable: tuple[int, int]

    def error(self) -> float:
        """The largest difference of outputs and gradients, relative to the largest value of each array."""
        pairs = [self.outputs, *self.gradients.values(), *([] if self.merged is None else [self.merged])]
        return max(
            float(np.abs(got - want).max(initial=0) / max(np.abs(want).max(initial=0), 1e-7)) for got, want in pairs
        )


def start(reference: Reference, method: Method):
    """The method's first state on the reference's base."""
    program = make_step(supervised(reference.apply), optax.sgd(0.1), method)
    return jax.jit(program.init)(reference.params, jax.random.key(0))


def run(reference: Reference, method: Method, state, learned):
    """Outputs with the parameters `learned`, and the gradients of their product with the recorded probe."""

    @jax.jit
    def both(learned):
        def loss(learned):
            outputs = reference.outputs(parameters(state.replace(params=learned), method)["model"])
            return jnp.sum(outputs * reference.probe), outputs

        return jax.value_and_grad(loss, has_aux=True)(learned)

    (_, outputs), gradients = both(learned)
    return outputs, gradients


@functools.cache
def plain(model: str) -> Reference:
    """The recorded model under the kinds that have folders, LoRA and IA3."""
    return load_plain(model)


def of_folder(kind: str) -> Compared:
    """The adapter in the folder `kind` that peft saved."""
    reference, folder = plain("llama"), FOLDER / "peft" / kind
    base = Model(CONFIGS["llama"], reference.params, reference.apply)
    with np.load(FOLDER / "peft_kinds.npz") as file:
        recorded = {name.removeprefix(f"{kind}/"): x for name, x in file.items() if name.startswith(f"{kind}/")}
    real = np.asarray(reference.batch["attention_mask"], bool)
    method, params = load_adapter(folder, base)
    state = start(reference, method)
    _, gradients = run(reference, method, state, state.params)
    found, outputs = gradients["model"], jax.jit(reference.outputs)
    peft_type = json.loads((folder / "adapter_config.json").read_text())["peft_type"]
    modules = modules_of(base, load_file(folder / "adapter_model.safetensors"))
    by_name = dict(formats()[peft_type].pack(held(found, method.name), modules))
    tokens = held(found, formats()[KIND].name) if peft_type != KIND else {}
    by_name |= tokens_beside(tokens, formats()[KIND].pack(tokens, modules), modules)[0]
    wanted = {name.removeprefix("gradient/"): x for name, x in recorded.items() if name.startswith("gradient/")}
    for name in wanted.keys() - by_name.keys():
        leaf = found
        for part in modules.leaf(name, formats()[peft_type].wrapper).split("/"):
            leaf = leaf[part]
        by_name[name] = leaf
    assert set(by_name) == set(wanted)
    want = recorded["outputs"][real]
    return Compared(
        f"transfer.{kind}" if kind in LORAS else method.name,
        (np.asarray(outputs(params))[real], want),
        (np.asarray(outputs(merge(params)))[real], want),
        {name: (np.asarray(by_name[name]), x) for name, x in wanted.items()},
        (count(state.params), int(recorded["trainable"])),
    )


def of_weights(model: str, kind: str) -> Compared:
    """LoRA or IA3 with the recorded weights."""
    reference, method = plain(model), transfer.lora(rank=4, alpha=6.0) if kind == "lora" else attention.ia3()
    state = start(reference, method)
    learned = reference.adapter(kind, "weight", state.params)
    outputs, gradients = run(reference, method, state, learned)
    whole = parameters(state.replace(params=learned), method)["model"]
    merged = jax.jit(reference.outputs)(merge(whole))
    return _compared(reference, kind, method, state, outputs, merged, gradients, reference.adapter)


@functools.cache
def virtual(model: str) -> Reference:
    """The recorded model under the prompt methods."""
    with np.load(FOLDER / f"peft_attention_{model}.npz") as file:
        records = dict(file)
    config, architecture = (PLAIN, llama) if model == "llama" else (CONFIGS["bert"], bert)
    tensors = architecture.tensors(config)
    base = {path: jnp.asarray(tensor.read(records[f"base/{tensor.name}"])) for path, tensor in tensors.items()}
    batch = {field: jnp.asarray(records[field]) for field in ("input_ids", "attention_mask")}
    return Reference(Forward(config), nested(base), batch, records["probe"], records, tensors)


def of_virtual(model: str, kind: str) -> Compared:
    """A prompt method with the recorded weights."""
    reference, method = virtual(model), VIRTUAL[kind]()
    state = start(reference, method)
    recorded = functools.partial(recorded_tree, reference)
    outputs, gradients = run(reference, method, state, recorded(kind, "weight", state.params))
    return _compared(reference, kind, method, state, outputs, None, gradients, recorded)


def _compared(reference, kind, method, state, outputs, merged, gradients, recorded):
    real = np.asarray(reference.batch["attention_mask"], bool)
    want = reference.records[f"{kind}/outputs"][real]
    expected = recorded(kind, "gradient", state.params)
    pairs = zip(paths(gradients), jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True)
    return Compared(
        method.name,
        (np.asarray(outputs)[real], want),
        None if merged is None else (np.asarray(merged)[real], want),
        {path: (np.asarray(found), np.asarray(wanted)) for path, found, wanted in pairs},
        (count(state.params), int(reference.records[f"{kind}/trainable"])),
    )


def recorded_tree(reference: Reference, kind: str, what: str, tree):
    """`tree` with the recorded ``"weight"`` or ``"gradient"`` of a prompt method in place of every leaf."""
    prefix = f"{kind}/{what}/"
    records = {name.removeprefix(prefix): x for name, x in reference.records.items() if name.startswith(prefix)}
    return map_with_path(lambda path, leaf: jnp.asarray(_recorded(records, path)), tree)


def _recorded(records, path: str):
    """The recorded array of one learned leaf; `records` are a kind's weights or gradients by peft's name."""
    *_, module, field = path.split("/")
    if field in ("keys", "values"):
        layer = int(path.split("/")[2])
        columns = np.split(records["prompt_encoder.embedding.weight"], 4, axis=1)
        return columns[2 * layer + (field == "values")]
    if field in ("tokens", "embedding"):
        return records["prompt_encoder.embedding.weight"]
    if field in ("prompt", "gate"):
        return records[f"model.layers.1.self_attn.adaption_{field}"][0]
    if "/lstm/" in path:
        _, _, layer, way, _ = path.split("/")
        return records[f"prompt_encoder.lstm_head.{LSTM[field]}_l{layer}{'_reverse' * (way == 'backward')}"].T
    stack = {"hidden": "transform.0", "output": "transform.2"}
    name = f"prompt_encoder.{stack.get(module) or f'mlp_head.{2 * int(module)}'}"
    return records[f"{name}.weight"].T if field == "kernel" else records[f"{name}.bias"]


def main() -> None:
    """One line a method, with its worst case."""
    worst: dict[str, tuple[float, str]] = {}
    for what, one in [
        *((kind, of_folder(kind)) for kind in KINDS),
        *((f"{kind} on {model}", of_weights(model, kind)) for model in ("llama", "bert") for kind in ("lora", "ia3")),
        *((f"{kind} on {model}", of_virtual(model, kind)) for model, kind in CASES),
    ]:
        worst[one.method] = max(worst.get(one.method, (0.0, what)), (one.error(), what))
    lines = [{"method": name, "error": error, "worst": what} for name, (error, what) in sorted(worst.items())]
    RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
