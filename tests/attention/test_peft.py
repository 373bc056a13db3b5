"""Outputs, gradients and counts of the prompt methods against peft's recorded ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden.peft_comparison import CASES, VIRTUAL, of_virtual, plain, recorded_tree, virtual
from safetensors.numpy import load_file

from ft_jax import attention
from ft_jax.core import make_step, parameters, supervised
from ft_jax.models import load_adapter, save_adapter
from ft_jax.models.model import Model


@pytest.mark.parametrize(("model", "kind"), CASES)
def test_outputs_gradients_and_counts_equal_peft(model, kind):
    compared = of_virtual(model, kind)
    assert compared.trainable[0] == compared.trainable[1]
    np.testing.assert_allclose(*compared.outputs, rtol=1e-5, atol=1e-5)
    for found, wanted in compared.gradients.values():
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def trained(reference, kind: str):
    """The model, and its parameters with the recorded adapter."""
    method = VIRTUAL[kind]() if kind in VIRTUAL else attention.ia3()
    program = make_step(supervised(reference.apply), optax.sgd(0.1), method)
    state = jax.jit(program.init)(reference.params, jax.random.key(0))
    if kind == "ia3":
        weights = reference.adapter("ia3", "weight", state.params)
    else:
        weights = recorded_tree(reference, kind, "weight", state.params)
    model = Model(reference.apply.config, reference.params, reference.apply)
    return model, parameters(state.replace(params=weights), method)["model"]


@pytest.mark.parametrize(("model", "kind"), [*CASES, ("llama", "ia3"), ("bert", "ia3")])
def test_files_hold_what_peft_saves_and_load_as_saved(model, kind, tmp_path):
    reference = plain(model) if kind == "ia3" else virtual(model)
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
    model, adapted = trained(virtual("llama"), "prompt")
    config = save_adapter(model, adapted, tmp_path / "adapter") / "adapter_config.json"
    config.write_text(config.read_text().replace('"num_virtual_tokens": 3', '"num_virtual_tokens": 4'))
    with pytest.raises(ValueError, match="3 virtual tokens and num_virtual_tokens says 4; correct the configuration"):
        load_adapter(tmp_path / "adapter", model)
