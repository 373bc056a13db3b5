"""Layers in one scan compute what unrolled layers compute, in every network that has the flag."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny_checkpoints import recorded
from safetensors.numpy import load_file

from ft_jax import models
from ft_jax.core.grafts import graft
from ft_jax.core.weights import quantize
from ft_jax.models import stack_layers, unstack_layers
from ft_jax.models.networks.parts import scanned
from ft_jax.models.networks.parts.stacking import STACKED, stack_each

NAMES = ("tiny_roberta", "tiny_vit", "tiny_dinov2", "tiny_clip", "tiny_siglip", "tiny_t5", "tiny_whisper", "tiny_llava")
KEY = jax.random.key(0)


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    return recorded(request.param)


def outputs(model, params, batch, key=None):
    def loss(params):
        outputs = model.apply(params, batch, key)
        return jnp.square(outputs.hidden).mean(), outputs

    (_, got), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return got, gradients


def close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, expected)


def test_a_scan_gives_what_unrolled_layers_give(case):
    plain = case.model.configure(collect=("hidden", "attention"), dropout=0.2)
    scanned = plain.configure(scan=True, remat="full")
    jax.tree.map(np.testing.assert_array_equal, scanned.configure(scan=False).params, plain.params)
    (expected, gradients), (got, stacked) = (
        outputs(model, model.params, case.batch(), KEY) for model in (plain, scanned)
    )
    assert got.states.keys() == expected.states.keys()
    close(got.hidden, expected.hidden)
    close(got.states, expected.states)
    close(stacked, stack_layers(gradients))


def test_a_scanned_model_is_saved_as_the_published_file(case, tmp_path):
    scanned = case.model.configure(scan=True)
    folder = models.save(scanned, scanned.params, tmp_path / "saved")
    original, saved = load_file(case.folder / "model.safetensors"), load_file(folder / "model.safetensors")
    for name, tensor in saved.items():
        np.testing.assert_array_equal(tensor, original[name], err_msg=name)


@pytest.mark.parametrize("name", ["tiny_t5", "tiny_whisper"])
def test_an_answer_of_scanned_layers_is_that_of_unrolled_ones(name):
    case = recorded(name)
    given = {field: x for field, x in case.batch().items() if not field.startswith("decoder_")}

    def answer(model):
        return models.generate_from(model, model.params, given, max_new_tokens=5, stop_tokens=()).tokens

    np.testing.assert_array_equal(answer(case.model.configure(scan=True)), answer(case.model))


def test_additions_scan_with_their_layers():
    from models.test_grafts_everywhere import Scaled

    case = recorded("tiny_t5")
    params = case.model.params
    for stack, count in (("encoder", 2), ("decoder", 2)):
        for i in range(count):
            params = graft(params, f"{stack}/stack/layers/{i}", "scaled", Scaled(jnp.float32(1 + 0.1 * i)))
    scanned = case.model.configure(scan=True)
    expected, _ = outputs(case.model, params, case.batch())
    got, _ = outputs(scanned, stack_layers(params), case.batch())
    close(got.hidden, expected.hidden)
    jax.tree.map(np.testing.assert_array_equal, unstack_layers(stack_layers(params)), params)


def test_layers_are_stacked_as_they_are_read(case):
    read, wanted = models.load(case.folder, tokenizer=False, scan=True), case.model.configure(scan=True)
    assert read.config == wanted.config and read.apply == wanted.apply
    jax.tree.map(np.testing.assert_array_equal, read.params, wanted.params)


def test_quantised_layers_are_stacked_and_placed_as_they_are_read():
    folder = recorded("tiny_llama").folder
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("fsdp",))
    apart = models.load(folder, tokenizer=False, quantize="nf4")
    asked = {}

    def sharding(path, shape):
        asked[path] = shape
        split = shape[-1] % 2 == 0 and len(shape) > 1
        spec = (None,) * (len(shape) - 1) + ("fsdp",) if split else ()
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))

    read = models.load(folder, tokenizer=False, quantize="nf4", scan=True, sharding=sharding)
    wanted = stack_layers(apart.params)
    assert jax.tree.structure(read.params) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, read.params, wanted)
    kernel = read.params["layers"][STACKED]["attention"]["query"]["kernel"]
    path = f"model/layers/{STACKED}/attention/query/kernel/codes"
    assert asked[path] == kernel.codes.shape and kernel.codes.sharding == sharding(path, kernel.codes.shape)


def test_deep_models_are_scanned_and_others_are_not(monkeypatch):
    folder = recorded("tiny_llama").folder
    assert not models.load(folder, tokenizer=False).config.scan
    monkeypatch.setattr(scanned, "UNROLLED", 1)
    assert models.load(folder, tokenizer=False).config.scan
    assert list(models.load(folder, tokenizer=False, abstract=True).params["layers"]) == [STACKED]
    assert not models.load(folder, tokenizer=False, scan=False).config.scan
    assert not models.load(folder, tokenizer=False, quantize="keep").config.scan
    assert not hasattr(recorded("tiny_modernbert").model.config, "scan"), "it has none, and is loaded all the same"


def test_a_parameter_of_another_form_in_some_layers_is_named():
    def parameter(path):
        return jnp.ones((64, 64)) if "/0/" in path else quantize(jnp.ones((64, 64)), "int8")

    with pytest.raises(ValueError, match=r"layers/1/up has another form than layers/0/up .*; pass scan=False"):
        stack_each(["layers/0/up", "layers/1/up"], parameter, lambda path, shape: None)


def test_a_network_whose_layers_differ_has_no_scan():
    with pytest.raises(ValueError, match="ModernEncoderConfig has no 'scan'"):
        recorded("tiny_modernbert").model.configure(scan=True)
