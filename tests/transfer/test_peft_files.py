"""Adapters that peft saved load with its outputs and gradients; what is saved here is what peft saves."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.peft_comparison import KINDS, of_folder
from golden.peft_reference import CONFIGS, FOLDER, load
from safetensors.numpy import load_file, save_file

from ft_jax import transfer
from ft_jax.core import compose, make_step, parameters, supervised
from ft_jax.core.params import count
from ft_jax.models import Model, load_adapter, save_adapter, tiny_decoder, tiny_encoder, with_classifier
from ft_jax.models.architectures import flat, nested
from ft_jax.models.model import Forward

LLAMA = load("llama")
BASE = Model(CONFIGS["llama"], LLAMA.params, LLAMA.apply)
REAL = np.asarray(LLAMA.batch["attention_mask"], bool)


@pytest.fixture(scope="module")
def recorded():
    with np.load(FOLDER / "peft_kinds.npz") as file:
        return dict(file)


def folder_of(kind):
    return FOLDER / "peft" / kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_peft_loads_with_its_outputs_gradients_and_count(kind):
    compared = of_folder(kind)
    # PiSSA's base is what is left of it after a decomposition, and two libraries decompose differently.
    own = _decomposed(2) if kind == "pissa" else 0.0
    for (found, wanted), rounding in ((compared.outputs, 1e-5), (compared.merged, 2e-5)):
        assert np.all(np.abs(found - wanted) <= own + rounding + 1e-5 * np.abs(wanted))
    assert compared.trainable[0] == compared.trainable[1]
    for name, (found, wanted) in compared.gradients.items():
        # A gradient is as much off as the outputs are, each in its own size.
        off = 1e-5 + np.max(own) / np.abs(compared.outputs[1]).max()
        np.testing.assert_allclose(
            found, wanted, rtol=1e-4, atol=off * np.abs(wanted).max(initial=0) + 1e-7, err_msg=name
        )


def _decomposed(rank):
    """How far outputs may move where two libraries split a weight's `rank` largest directions off in float32.

    A decomposition is exact for a weight that is off by ``√n ε s₁``; the part split off then moves by at most that
    times ``1 + 2 s₁ / (s_r - s_{r+1})`` (Davis and Kahan), and an output by its gradient's norm times the move.
    """
    chosen = ("query/kernel", "output/kernel", "down/kernel")
    weights = {path: x for path, x in flat(BASE.params).items() if path.endswith(chosen)}

    def outputs(weights):
        return LLAMA.outputs(nested(flat(BASE.params) | weights))[REAL]

    slopes, total = jax.jit(jax.jacrev(outputs))(weights), 0.0
    for path, weight in weights.items():
        s = np.linalg.svd(np.asarray(weight, np.float64), compute_uv=False)
        off = max(weight.shape) ** 0.5 * np.finfo(np.float32).eps * s[0]
        move = 2 * off * (1 + 2 * s[0] / (s[rank - 1] - s[rank]))
        total += np.linalg.norm(np.asarray(slopes[path]).reshape(*slopes[path].shape[:-2], -1), axis=-1) * move
    return total


def _sgd():
    import optax

    return optax.sgd(0.1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("pissa", "olora", "vera_drawn")])
def test_what_is_saved_is_what_peft_saved(kind, tmp_path):
    _, params = load_adapter(folder_of(kind), BASE)
    save_adapter(BASE, params, tmp_path / "saved")
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "saved", folder_of(kind)))
    # peft adds the unchanged base of a head that an adapter stands on.
    theirs = {name: x for name, x in theirs.items() if not name.endswith("base_layer.weight")}
    assert ours.keys() == theirs.keys()
    for name in theirs:
        # peft saves what the optimizer gave and constrains it at the next use; here it is constrained at once.
        if kind != "oft_constrained":
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-7, err_msg=name)
    _, again = load_adapter(tmp_path / "saved", BASE)
    np.testing.assert_allclose(LLAMA.outputs(again)[REAL], LLAMA.outputs(params)[REAL], rtol=1e-5, atol=1e-5)
    ours, theirs = (json.loads((f / "adapter_config.json").read_text()) for f in (tmp_path / "saved", folder_of(kind)))
    assert ours["peft_type"] == theirs["peft_type"] and set(ours) <= set(theirs) | {"bias"}
    same = (
        "oft_block_size",
        "use_cayley_neumann",
        "block_share",
        "coft",
        "decompose_both",
        "decompose_factor",
        "use_dora",
    )
    for field in same if ours["peft_type"] not in ("ADALORA", "TRAINABLE_TOKENS") else ():
        assert ours.get(field) == theirs.get(field) or (ours["peft_type"] == "OFT" and ours["r"] != theirs["r"])


def test_frequencies_of_their_own_are_found_by_pefts_rule(tmp_path):
    _, params = load_adapter(folder_of("fourierft"), BASE)
    save_adapter(BASE, params, tmp_path / "saved")
    pattern = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())["n_frequency_pattern"]
    saved = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    spectra = {name.removesuffix(".fourierft_spectrum"): x.shape[0] for name, x in saved.items()}
    own = {name.removeprefix("base_model.model."): size for name, size in spectra.items()}
    assert set(own.values()) == {11, 20}
    for name, frequencies in own.items():
        # peft.tuners.fourierft.model: the first key that is the end of a name after a dot, else the whole name.
        key = next((key for key in pattern if re.match(rf".*\.{key}$", name)), name)
        assert pattern.get(key, 20) == frequencies


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_a_start_that_changes_the_base_is_saved_as_a_lora_of_the_base_it_began_at(kind, tmp_path):
    _, params = load_adapter(folder_of(kind), BASE)
    save_adapter(BASE, params, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert config["r"] == 4 and "init_lora_weights" not in config
    _, again = load_adapter(tmp_path / "saved", BASE)
    np.testing.assert_allclose(LLAMA.outputs(again)[REAL], LLAMA.outputs(params)[REAL], rtol=1e-5, atol=2e-5)


def test_training_goes_on_from_what_was_loaded_and_a_head_is_saved_with_it(tmp_path):
    model = with_classifier(tiny_encoder(jax.random.key(0)), 3, jax.random.key(1))
    batch = {"input_ids": jnp.arange(12).reshape(3, 4), "labels": jnp.array([0, 1, 2])}
    method = transfer.lora(rank=2, also=("*/head/*",), targets="attention")
    program = make_step(supervised(model.apply), _sgd(), method)
    state, _ = jax.jit(program.step)(program.init(model.params, jax.random.key(2)), batch)
    trained = parameters(state, method)["model"]
    save_adapter(model, trained, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["classifier"] and config["task_type"] == "SEQ_CLS"
    assert "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight" in load_file(
        tmp_path / "saved" / "adapter_model.safetensors"
    )

    loaded, params = load_adapter(tmp_path / "saved", model)
    np.testing.assert_allclose(model.apply(params, batch).logits, model.apply(trained, batch).logits, atol=1e-6)
    program = make_step(supervised(model.apply), _sgd(), loaded)
    resumed = program.init(model.params, jax.random.key(9))
    assert count(resumed.params) == count(state.params)
    further, _ = jax.jit(program.step)(resumed, batch)
    once_more, _ = jax.jit(make_step(supervised(model.apply), _sgd(), method).step)(state, batch)
    after = [parameters(s, m)["model"] for s, m in ((further, loaded), (once_more, method))]
    np.testing.assert_allclose(*(model.apply(params, batch).logits for params in after), atol=1e-6)


def test_a_classifier_of_peft_loads_under_its_longer_names(recorded):
    reference = load("bert")
    model = with_classifier(Model(CONFIGS["bert"], reference.params, Forward(CONFIGS["bert"])), 2, jax.random.key(0))
    _, params = load_adapter(folder_of("classifier"), model)
    stored = load_file(folder_of("classifier") / "adapter_model.safetensors")
    np.testing.assert_array_equal(params["head"]["kernel"].T, stored["base_model.model.classifier.weight"])
    real = np.asarray(reference.batch["attention_mask"], bool)
    hidden = reference.apply(params, reference.batch, None).hidden
    np.testing.assert_allclose(hidden[real], recorded["classifier/outputs"][real], rtol=1e-5, atol=1e-5)


def changed(folder, tmp_path, fields=None, tensors=None):
    """A copy of an adapter with fields and tensors replaced."""
    shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((folder / "adapter_config.json").read_text()) | (fields or {})
    (tmp_path / "copy" / "adapter_config.json").write_text(json.dumps(config))
    stored = load_file(folder / "adapter_model.safetensors")
    for name, x in (tensors or {}).items():
        stored.pop(name) if x is None else stored.update({name: x})
    save_file(stored, tmp_path / "copy" / "adapter_model.safetensors")
    return tmp_path / "copy"


QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("kind", "fields", "tensors", "said"),
    [
        ("dora", {"use_qalora": True}, {}, "has use_qalora=True, which is not implemented for LORA; the nearest"),
        ("dora", {"kasa_config": {"a": 1}}, {}, "has kasa_config="),
        ("loha", {"rank_dropout": 0.1}, {}, "has rank_dropout=0.1, which is not implemented for LOHA"),
        ("loha", {"peft_type": "XLORA"}, {}, "has peft_type 'XLORA'; known are .*BOFT.*LORA"),
        ("pissa", {"init_lora_weights": "pissa_niter_4"}, {}, "'pissa_niter_4' changes the base in a way"),
        ("oft", {}, {f"{QUERY}.oft_R.weight": None, f"{QUERY}.other": np.ones(2)}, "left over .*q_proj.other"),
        (
            "boft",
            {},
            {f"{QUERY}.boft_s": np.ones((5, 1), np.float32)},
            r"boft_s' has shape \(5, 1\) .* \(16, 1\)",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(kind, fields, tensors, said, tmp_path):
    with pytest.raises(ValueError, match=said) as error:
        load_adapter(changed(folder_of(kind), tmp_path, fields, tensors), BASE)
    assert "\n" not in str(error.value)


def test_an_adapter_of_another_base_is_refused_with_shape_and_name():
    with pytest.raises(ValueError, match=r"lora_B.weight' has shape \(16, 4\) and this base asks for \(24, 4\)"):
        load_adapter(folder_of("lora_patterns"), _wider())
    with pytest.raises(ValueError, match=r"it is an adapter of another base: the module model.layers.* is not there"):
        load_adapter(folder_of("vera"), tiny_encoder(jax.random.key(0)))
    with pytest.raises(FileNotFoundError, match="has no adapter_config.json"):
        load_adapter(FOLDER, BASE)


def _wider():
    import dataclasses

    from ft_jax.models import decoder

    return decoder(dataclasses.replace(CONFIGS["llama"], width=24), jax.random.key(0))


def test_norms_trained_with_a_head_are_pefts_ln_tuning(tmp_path):
    model = with_classifier(tiny_encoder(jax.random.key(0)), 3, jax.random.key(1))
    method = transfer.norm_tuning()
    state = make_step(supervised(model.apply), _sgd(), method).init(model.params, jax.random.key(0))
    state = state.replace(params=jax.tree.map(lambda leaf: leaf + 0.5, state.params))
    trained = parameters(state, method)["model"]
    folder = save_adapter(model, trained, tmp_path / "norms")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LN_TUNING" and config["modules_to_save"] == ["classifier"]
    assert "bert.encoder.layer.0.attention.output.LayerNorm" in config["target_modules"]
    again, params = load_adapter(folder, model)
    jax.tree.map(np.testing.assert_array_equal, params, trained)
    learning = make_step(supervised(model.apply), _sgd(), again).init(model.params, jax.random.key(0)).params
    assert count(learning) == count(state.params)
    trained["layers"]["0"]["mlp"]["up"]["kernel"] += 1.0
    with pytest.raises(ValueError, match="layers/0/mlp/up/bias was trained as well, and peft's LN_TUNING keeps norms"):
        save_adapter(model, trained, tmp_path / "more")


def test_what_peft_has_no_files_for_is_refused(tmp_path):
    model = tiny_decoder(jax.random.key(0), layers=1)

    def adapted(*methods):
        return make_step(supervised(model.apply), _sgd(), compose(*methods)), compose(*methods)

    def trained(*methods):
        program, method = adapted(*methods)
        return parameters(program.init(model.params, jax.random.key(1)), method)["model"]

    with pytest.raises(ValueError, match="transfer.houlsby is a Bottleneck, which peft has no files for"):
        save_adapter(model, trained(transfer.houlsby(size=2)), tmp_path / "a")
    with pytest.raises(ValueError, match=r"not exactly one adapter \(they have transfer.(oft|lora), transfer"):
        save_adapter(model, trained(transfer.oft(block=4), transfer.lora(rank=2)), tmp_path / "a")
    with pytest.raises(ValueError, match=r"parameters hold not exactly one adapter \(they have none\)"):
        save_adapter(model, model.params, tmp_path / "a")
    params = trained(transfer.oft(block=4, targets="*up/kernel"))
    moved = jax.tree.map(lambda x: x + 1.0, params["layers"]["0"]["mlp"]["up"]["kernel"])
    params["layers"]["0"]["mlp"]["up"]["kernel"] = moved
    with pytest.raises(ValueError, match="the base under layers/0/mlp/up/kernel was trained as well"):
        save_adapter(model, params, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    save_adapter(model, trained(transfer.lora(rank=2)), tmp_path / "a")
    with pytest.raises(FileExistsError, match="exists; choose another folder"):
        save_adapter(model, trained(transfer.lora(rank=2)), tmp_path / "a")


def test_butterfly_permutations_are_pefts(recorded):
    from ft_jax.transfer.boft import permutation

    for name, order in recorded.items():
        if name.startswith("permutation/"):
            width, edge, i = map(int, name.split("/")[1:])
            np.testing.assert_array_equal(permutation(width, width // edge // 2**i, edge // 2), order)
