"""Outputs, gradients and counts of the prompt methods against peft's recorded ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden.peft_reference import CONFIGS, FOLDER, Reference
from golden.peft_reference import load as load_ia3
from safetensors.numpy import load_file

from ft_jax import attention
from ft_jax.core import make_step, parameters, supervised
from ft_jax.core.params import count, map_with_path
from ft_jax.models import load_adapter, save_adapter
from ft_jax.models.architectures import bert, llama, nested
from ft_jax.models.model import Forward, Model

LENGTH = 3
PLAIN = dataclasses.replace(CONFIGS["llama"], biases=False, output_bias=False, mlp_biases=False)
MODELS = {"llama": (PLAIN, llama), "bert": (CONFIGS["bert"], bert)}
METHODS = {
    "prefix": lambda: attention.prefix_tuning(LENGTH),
    "prefix_projection": lambda: attention.prefix_tuning(LENGTH, projection=5),
    "prompt": lambda: attention.prompt_tuning(LENGTH),
    "p_tuning_mlp": lambda: attention.p_tuning(LENGTH, hidden=6),
    "p_tuning_lstm": lambda: attention.p_tuning(LENGTH, hidden=4, encoder="lstm"),
    "adaption": lambda: attention.llama_adapter(LENGTH, layers=1),
}
CASES = [("llama", kind) for kind in METHODS] + [("bert", kind) for kind in ("prefix", "prompt", "p_tuning_mlp")]
LSTM = {"input": "weight_ih", "recurrent": "weight_hh", "input_bias": "bias_ih", "recurrent_bias": "bias_hh"}


def load(model: str) -> Reference:
    """The recorded model."""
    with np.load(FOLDER / f"peft_attention_{model}.npz") as file:
        records = dict(file)
    config, architecture = MODELS[model]
    tensors = architecture.tensors(config)
    base = {path: jnp.asarray(tensor.read(records[f"base/{tensor.name}"])) for path, tensor in tensors.items()}
    batch = {field: jnp.asarray(records[field]) for field in ("input_ids", "attention_mask")}
    return Reference(Forward(config), nested(base), batch, records["probe"], records, tensors)


def recorded(records, path: str):
    """The recorded array of one learned leaf; `records` are a kind's weights or gradients by peft's name."""
    *_, module, field = path.split("/")
    if field in ("keys", "values"):
        layer = int(path.split("/")[2])
        columns = np.split(records["prompt_encoder.embedding.weight"], 4, axis=1)
        return columns[2 * layer + (field == "values")]
    if field == "tokens" or field == "embedding":
        return records["prompt_encoder.embedding.weight"]
    if field in ("prompt", "gate"):
        value = records[f"model.layers.1.self_attn.adaption_{field}"]
        return value[0]
    if "/lstm/" in path:
        _, _, layer, way, _ = path.split("/")
        return records[f"prompt_encoder.lstm_head.{LSTM[field]}_l{layer}{'_reverse' * (way == 'backward')}"].T
    stack = {"hidden": "transform.0", "output": "transform.2"}
    name = f"prompt_encoder.{stack.get(module) or f'mlp_head.{2 * int(module)}'}"
    return records[f"{name}.weight"].T if field == "kernel" else records[f"{name}.bias"]


def of_kind(reference, kind: str, what: str, tree):
    """`tree` with the recorded ``"weight"`` or ``"gradient"`` in place of every leaf."""
    prefix = f"{kind}/{what}/"
    records = {name.removeprefix(prefix): x for name, x in reference.records.items() if name.startswith(prefix)}
    return map_with_path(lambda path, leaf: jnp.asarray(recorded(records, path)), tree)


@pytest.mark.parametrize(("model", "kind"), CASES)
def test_outputs_gradients_and_counts_equal_peft(model, kind):
    reference = load(model)
    method = METHODS[kind]()
    state = make_step(supervised(reference.apply), optax.sgd(0.1), method).init(reference.params, jax.random.key(0))
    assert count(state.params) == int(reference.records[f"{kind}/trainable"])
    weights = of_kind(reference, kind, "weight", state.params)
    assert jax.tree.map(jnp.shape, weights) == jax.tree.map(jnp.shape, state.params)

    @jax.jit
    def run(learned):
        def loss(learned):
            outputs = reference.outputs(parameters(state.replace(params=learned), method)["model"])
            return jnp.sum(outputs * reference.probe), outputs

        return jax.value_and_grad(loss, has_aux=True)(learned)

    (_, outputs), gradients = run(weights)
    real = np.asarray(reference.batch["attention_mask"], bool)
    np.testing.assert_allclose(outputs[real], reference.records[f"{kind}/outputs"][real], rtol=1e-5, atol=1e-5)
    expected = of_kind(reference, kind, "gradient", state.params)
    for found, wanted in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def trained(reference, kind: str):
    """The model, and its parameters with the recorded adapter."""
    method = METHODS[kind]() if kind in METHODS else attention.ia3()
    program = make_step(supervised(reference.apply), optax.sgd(0.1), method)
    state = jax.jit(program.init)(reference.params, jax.random.key(0))
    if kind == "ia3":
        weights = reference.adapter("ia3", "weight", state.params)
    else:
        weights = of_kind(reference, kind, "weight", state.params)
    model = Model(reference.apply.config, reference.params, reference.apply)
    return model, parameters(state.replace(params=weights), method)["model"]


@pytest.mark.parametrize(("model", "kind"), [*CASES, ("llama", "ia3"), ("bert", "ia3")])
def test_files_hold_what_peft_saves_and_load_as_saved(model, kind, tmp_path):
    reference = load_ia3(model) if kind == "ia3" else load(model)
    model, adapted = trained(reference, kind)
    folder = save_adapter(model, adapted, tmp_path / "adapter")
    prefix = f"{kind}/saved/"
    expected = {name.removeprefix(prefix): x for name, x in reference.records.items() if name.startswith(prefix)}
    stored = load_file(folder / "adapter_model.safetensors")
    if kind != "ia3":
        assert set(stored) == set(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(stored[name], array, atol=1e-6)
    method, loaded = load_adapter(folder, model)
    real = np.asarray(reference.batch["attention_mask"], bool)
    found = jax.jit(reference.outputs)(loaded)
    np.testing.assert_allclose(found[real], reference.records[f"{kind}/outputs"][real], rtol=1e-5, atol=1e-5)
    program = make_step(supervised(reference.apply), optax.sgd(0.1), method)
    again = parameters(program.init(reference.params, jax.random.key(1)), method)["model"]
    assert jax.tree.all(jax.tree.map(jnp.array_equal, again, loaded))


def test_a_wrong_number_of_virtual_tokens_is_refused(tmp_path):
    model, adapted = trained(load("llama"), "prompt")
    config = save_adapter(model, adapted, tmp_path / "adapter") / "adapter_config.json"
    config.write_text(config.read_text().replace('"num_virtual_tokens": 3', '"num_virtual_tokens": 4'))
    with pytest.raises(ValueError, match="3 virtual tokens and num_virtual_tokens says 4; correct the configuration"):
        load_adapter(tmp_path / "adapter", model)
