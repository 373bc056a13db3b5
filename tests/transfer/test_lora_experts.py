"""LoRA on the experts of a mixture: an update of its own for each, here and in peft's ``target_parameters``."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models.tiny_checkpoints import GOLDEN
from safetensors.numpy import load_file

from ft_jax import models, transfer
from ft_jax.core import make_step, merge, parameters, supervised
from ft_jax.core.params import paths

EXPERTS = ("*/experts/*/kernel",)
IDS = {"input_ids": jnp.arange(12).reshape(2, 6)}


def mixture(name="mixtral", **options):
    return models.load(GOLDEN / "decoders" / name, tokenizer=False, **options)


def moved(model, method):
    """The state, and what the model sees, after every learning leaf went another way."""
    program = make_step(supervised(model.apply), optax.sgd(0.1), method)
    state = program.init(model.params, jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 1000))
    leaves = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), state.params)
    state = state.replace(params=leaves)
    return state, parameters(state, method)["model"]


def logits(model, params):
    return np.asarray(jax.jit(model.apply)(params, IDS).logits)


def test_every_expert_has_the_papers_update_of_its_own_and_merges():
    model = mixture()
    _, params = moved(model, transfer.lora(rank=2, alpha=3.0, targets=EXPERTS))
    merged = merge(params)
    for part in ("gate", "up", "down"):
        base = np.asarray(model.params["layers"]["0"]["mlp"]["experts"][part]["kernel"])
        held = params["layers"]["0"]["mlp"]["experts"][part]["kernel"]
        assert held.a.shape == (*base.shape[:2], 2) and held.b.shape == (base.shape[0], 2, base.shape[2])
        wanted = [base[e] + 3.0 / 2 * np.asarray(held.a[e]) @ np.asarray(held.b[e]) for e in range(len(base))]
        got = merged["layers"]["0"]["mlp"]["experts"][part]["kernel"]
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits(model, params), logits(model, merged), rtol=1e-4, atol=1e-5)
    assert np.abs(logits(model, params) - logits(model, model.params)).max() > 0.1


def test_it_starts_at_the_base_and_its_factors_alone_learn():
    model, method = mixture(), transfer.lora(rank=2, targets=EXPERTS)
    program = make_step(supervised(model.apply), optax.sgd(0.1), method)
    state = program.init(model.params, jax.random.key(0))
    np.testing.assert_allclose(logits(model, parameters(state, method)["model"]), logits(model, model.params))
    assert {path.rpartition("/")[2] for path in paths(state.params)} == {"a", "b"}
    assert len(jax.tree.leaves(state.params)) == 2 * 3 * model.config.layers
    moved_state, _ = program.step(state, {**IDS, "labels": IDS["input_ids"]})
    changed = jax.tree.map(lambda one, other: bool((one != other).any()), state.params, moved_state.params)
    assert any(jax.tree.leaves(changed))


def test_scanned_layers_have_the_same_updates():
    model = mixture()
    scanned, method = model.configure(scan=True), transfer.lora(rank=2, targets=EXPERTS)
    _, params = moved(scanned, method)
    apart = models.unstack_layers(params)
    np.testing.assert_allclose(logits(scanned, params), logits(model, apart), rtol=1e-4, atol=1e-5)
    held = apart["layers"]["1"]["mlp"]["experts"]["down"]["kernel"]
    assert held.a.shape == (model.config.experts, model.config.mlp_width, 2)


def test_patterns_of_all_kernels_leave_experts_alone():
    model = mixture()
    _, params = moved(model, transfer.lora(rank=2))
    experts = params["layers"]["0"]["mlp"]["experts"]
    assert all(isinstance(part["kernel"], jax.Array) for part in experts.values())


@pytest.mark.parametrize(
    "build",
    [
        lambda: transfer.dora(rank=2, targets=EXPERTS),
        lambda: transfer.pissa(rank=2, targets=EXPERTS),
        lambda: transfer.lora(rank=2, targets=EXPERTS, dropout=0.1),
        lambda: transfer.lora(rank=2, targets=EXPERTS, bias=True),
        lambda: transfer.lora(rank=2, targets=EXPERTS, start="orthogonal"),
    ],
)
def test_other_updates_of_experts_are_refused_in_a_sentence(build):
    model, method = mixture(), build()
    with pytest.raises(ValueError, match=r"experts/\w+/kernel is a stack of experts, .* leave it out of targets"):
        make_step(supervised(model.apply), optax.sgd(0.1), method).init(model.params, jax.random.key(0))


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (EXPERTS, ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]),
        (("*/experts/up/kernel",), ["mlp.experts.gate_up_proj"]),
        (("*/1/mlp/experts/down/kernel",), ["model.layers.1.mlp.experts.down_proj"]),
    ],
)
def test_what_is_saved_comes_back_and_names_the_parameters(targets, said, tmp_path):
    model = mixture("qwen3_moe")
    _, params = moved(model, transfer.lora(rank=2, alpha=3.0, targets=targets))
    models.save_adapter(model, params, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert config["target_parameters"] == said and config["target_modules"] == []
    names = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert any("base_layer.lora_A" in name for name in names) == (len(said) > 1)
    _, again = models.load_adapter(tmp_path / "saved", model)
    np.testing.assert_allclose(logits(model, again), logits(model, params), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp.experts.gate_proj", "self_attn.qkv.weight"])
def test_a_parameter_that_is_no_stack_of_experts_is_refused_by_name(name, tmp_path):
    model = mixture()
    _, params = moved(model, transfer.lora(rank=2, targets=EXPERTS))
    folder = models.save_adapter(model, params, tmp_path / "saved")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_parameters": [name]}))
    with pytest.raises(ValueError, match=f"target_parameters '{name}', which is no stack of experts") as caught:
        models.load_adapter(folder, model)
    assert "\n" not in str(caught.value) and "mlp.experts.down_proj" in str(caught.value)


@pytest.mark.parametrize("method", [transfer.dora(rank=2), transfer.lora(rank=2, bias=True)], ids=["dora", "bias"])
def test_what_peft_has_not_for_a_router_is_refused_when_saved(method, tmp_path):
    model = mixture()
    _, params = moved(model, method)
    with pytest.raises(
        ValueError, match="router/kernel is a mixture's router, .* leave it out of targets, or use LoRA"
    ):
        models.save_adapter(model, params, tmp_path / "saved")
