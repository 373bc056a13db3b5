"""Every decoder gives what transformers gives (recorded by tests/golden/record_decoders.py), scanned or not."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ft_jax import models
from ft_jax.models.architectures import architecture_for, architecture_of, flat
from ft_jax.models.architectures.naming import writers
from ft_jax.models.architectures.rope_json import read_rope, rope_entry

GOLDEN = Path(__file__).parents[1] / "golden" / "decoders"
NAMES = sorted(path.parent.name for path in GOLDEN.glob("*/outputs.npz"))
MIXTURES = ("mixtral", "qwen3_moe")


@functools.cache
def loaded(name):
    return models.load(GOLDEN / name, tokenizer=False)


@functools.cache
def recorded(name):
    arrays = np.load(GOLDEN / name / "outputs.npz")
    return {field: arrays[field] for field in arrays.files}


def batch_of(name, side):
    arrays = recorded(name)
    return {field: jnp.asarray(arrays[f"{side}/{field}"]) for field in ("input_ids", "attention_mask")}


@functools.cache
def compiled(name, scan):
    model = loaded(name).configure(collect=("hidden",), scan=scan)
    run = jax.jit(lambda params, batch: (outputs := model.apply(params, batch), outputs.logits))
    return functools.partial(run, model.params)


@functools.cache
def outputs_of(name, side, scan=False):
    return compiled(name, scan)(batch_of(name, side))


SIDES = [(name, side) for name in NAMES for side in ("right", "left")] + [("phi3", "short"), ("gpt2", "short")]


@pytest.mark.parametrize(("name", "side"), SIDES)
def test_hidden_states_and_logits_equal_the_reference(name, side):
    arrays, real = recorded(name), np.asarray(batch_of(name, side)["attention_mask"]).astype(bool)
    outputs, logits = outputs_of(name, side)
    last = loaded(name).config.layers
    for i in range(1, last + 1):
        # transformers normalises the last of the hidden states.
        got = outputs.hidden if i == last else outputs.states[f"layers/{i - 1}"]
        np.testing.assert_allclose(np.asarray(got)[real], arrays[f"{side}/hidden/{i}"][real], atol=2e-5, rtol=2e-5)
    np.testing.assert_allclose(np.asarray(logits)[real], arrays[f"{side}/logits"][real], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_the_reference(name):
    model, arrays, batch = loaded(name), recorded(name), batch_of(name, "left")
    ids, mask = batch["input_ids"], batch["attention_mask"]

    def loss(params):
        scores = jax.nn.log_softmax(model.apply(params, batch).logits[:, :-1])
        scores = jnp.take_along_axis(scores, ids[:, 1:, None], axis=-1)[..., 0]
        weights = mask[:, 1:] * mask[:, :-1]
        return -(scores * weights).sum() / weights.sum()

    gradients = flat(jax.jit(jax.grad(loss))(model.params))
    architecture = architecture_for(model.config)
    table = architecture.tensors(model.config)
    # A gradient has no offset: it is that of the stored number and of the scale alike.
    table = {path: dataclasses.replace(tensor, offset=0.0) for path, tensor in table.items()}
    checked = 0
    for stored, writer in writers(table).items():
        want = arrays.get(f"gradient/{architecture.prefix}{stored}")
        if want is not None:
            got = writer.write(*(np.asarray(gradients[path]) for path in writer.paths))
            np.testing.assert_allclose(got, want, atol=1e-4 * max(1.0, np.abs(want).max()), err_msg=stored)
            checked += 1
    assert checked == sum(field.startswith("gradient/") for field in arrays)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_generation_equals_the_reference(name):
    model, arrays = loaded(name), recorded(name)
    got = models.generate(model, model.params, arrays["right/input_ids"][:1], max_new_tokens=12, stop_tokens=())
    np.testing.assert_array_equal(got.tokens[0], arrays["greedy"])


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_survives_its_config_json(name):
    config = loaded(name).config
    architecture = architecture_for(config)
    assert name in architecture.model_types[0]
    assert architecture.read(architecture.write(config), set()) == config


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_checkpoint_holds_the_tensors_it_came_from(name, tmp_path):
    model = loaded(name)
    models.save(model, model.params, tmp_path / "saved")
    again = models.load(tmp_path / "saved", tokenizer=False)
    assert again.config == model.config
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), again.params, model.params)


@pytest.mark.parametrize("name", ["gemma3", "qwen2", "mixtral"])
def test_scanned_layers_equal_unrolled_ones(name):
    plain, scanned = (outputs_of(name, "left", scan) for scan in (False, True))
    assert scanned[0].states.keys() == plain[0].states.keys()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), scanned, plain)


def test_scanned_layers_generate_the_same():
    model, arrays = loaded("gemma3").configure(scan=True), recorded("gemma3")
    got = models.generate(model, model.params, arrays["right/input_ids"][:1], max_new_tokens=12, stop_tokens=())
    np.testing.assert_array_equal(got.tokens[0], arrays["greedy"])


def test_stacked_parameters_are_taken_apart_again():
    model = loaded("gemma3")
    scanned = model.configure(scan=True)
    assert scanned.params["layers"]["stacked"]["mlp"]["up"]["kernel"].shape == (3, 16, 24)
    back = scanned.configure(scan=False)
    assert back.config == model.config
    jax.tree.map(np.testing.assert_array_equal, back.params, model.params)


@pytest.mark.parametrize("name", ["gemma3", "smollm3", "mixtral"])
def test_packed_equals_separate(name):
    model, ids = loaded(name), jax.random.randint(jax.random.key(1), (16,), 3, 48)
    first, second = ids[:9], ids[9:]
    segments = jnp.array([[1] * 9 + [2] * 7])
    run = jax.jit(lambda batch: model.apply(model.params, batch).hidden)
    packed = run({"input_ids": ids[None], "segment_ids": segments})
    alone = [run({"input_ids": part[None]}) for part in (first, second)]
    np.testing.assert_allclose(packed, jnp.concatenate(alone, axis=1), atol=1e-5)


def test_a_window_hides_what_lies_before_it():
    model = loaded("mistral")
    ids = jax.random.randint(jax.random.key(1), (1, 12), 3, 48)
    shallow = dataclasses.replace(model.config, layers=1)
    params = {**model.params, "layers": {"0": model.params["layers"]["0"]}}
    run = jax.jit(lambda ids: models.Forward(shallow)(params, {"input_ids": ids}).hidden[0, -1])
    assert np.array_equal(run(ids), run(ids.at[0, 7].set(4)))
    assert not np.allclose(run(ids), run(ids.at[0, 8].set(4)), atol=1e-4)


@pytest.mark.parametrize("name", MIXTURES)
def test_the_load_balance_loss_equals_the_reference(name):
    batch, config = batch_of(name, "left"), loaded(name).config
    outputs, _ = outputs_of(name, "left")
    got = models.load_balance(outputs.states, config.experts_per_token, batch["attention_mask"])
    np.testing.assert_allclose(got, recorded(name)["left/balance"], rtol=1e-5)


@pytest.mark.parametrize("name", MIXTURES)
def test_grouped_experts_equal_a_loop_over_tokens(name):
    model = loaded(name)
    layer = jax.tree.map(np.asarray, model.params["layers"]["0"]["mlp"])
    x = jax.random.normal(jax.random.key(0), (2, 5, 16))
    module = model.apply.module(model.params).layers["0"].mlp
    got, _ = jax.jit(lambda x: module(x))(x)
    for row in range(2):
        for time in range(5):
            token = np.asarray(x[row, time])
            scores = np.exp(token @ layer["router"]["kernel"])
            scores /= scores.sum()
            picked = np.argsort(-scores)[: model.config.experts_per_token]
            total = scores[picked].sum() if model.config.normalised_router else 1.0
            expected = 0.0
            for e in picked:
                gate, up, down = (layer["experts"][part]["kernel"][e] for part in ("gate", "up", "down"))
                hidden = token @ gate
                expected += scores[e] / total * ((hidden / (1 + np.exp(-hidden)) * (token @ up)) @ down)
            np.testing.assert_allclose(got[row, time], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "dynamic", "yarn", "llama3", "longrope"])
@pytest.mark.parametrize("length", [20, 100])
def test_rotary_frequencies_equal_the_reference(name, length):
    arrays = np.load(GOLDEN / "ropes.npz")
    parameters = {"rope_theta": 500.0, **json.loads(str(arrays["parameters"]))[name]}
    theta, scaling = read_rope({"max_position_embeddings": 64, "rope_parameters": parameters})
    np.testing.assert_allclose(scaling.frequencies(theta, 8, jnp.int32(length)), arrays[f"{name}/{length}"], rtol=1e-5)
    np.testing.assert_allclose(scaling.magnitude, arrays[f"{name}/magnitude"], rtol=1e-6)
    assert read_rope({"max_position_embeddings": 64, "rope_parameters": rope_entry(theta, scaling)}) == (theta, scaling)


def config_json(name, **changes):
    return json.loads((GOLDEN / name / "config.json").read_text(encoding="utf-8")) | changes


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"rope_parameters": {"rope_type": "spiral"}}, "rope scaling 'spiral'; known are 'default', 'linear'"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "rope scaling 'linear' in config.json has no 'factor'"),
        ("llama", {"hidden_act": "swish"}, "hidden_act 'swish'"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 3}, "layers of type 'chunked_attention'"),
        ("gemma2", {"layer_types": ["full_attention"]}, "3 layers and 1 layer_types"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3", {"text_config": {}}, "vision-language Gemma 3"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "layers without experts"),
        ("mixtral", {"num_local_experts": None}, "no 'num_local_experts'"),
    ],
)
def test_what_config_json_asks_for_and_is_not_known_is_refused(name, changes, message):
    json_ = config_json(name, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        architecture_of(json_["model_type"]).read(json_, set())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes"), [("mistral", {"intermediate_size": 32}), ("mixtral", {"num_local_experts": 5})]
)
def test_a_config_json_of_another_model_is_refused_before_reading(name, changes, tmp_path):
    shutil.copy(GOLDEN / name / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config_json(name, **changes)), encoding="utf-8")
    with pytest.raises(ValueError, match="config and weights are of different models|missing .*experts.4"):
        models.load(tmp_path, tokenizer=False)


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({}, "llama"),
        ({"biases": True}, "qwen2"),
        ({"query_key_norms": True}, "qwen3"),
        ({"window": 4}, "mistral"),
        ({"window": 4, "family": "phi3"}, "phi3"),
        ({"rotary": (True, False)}, "smollm3"),
        ({"experts": 4}, "mixtral"),
        ({"scan": True, "dtype": "bfloat16", "dropout": 0.1}, "llama"),
    ],
)
def test_a_configuration_is_saved_as_the_first_architecture_that_fits(changes, family):
    config = dataclasses.replace(models.tiny_decoder(None).config, **changes)
    assert architecture_for(config).model_types[0] == family


def test_a_configuration_no_architecture_has_is_not_saved():
    config = dataclasses.replace(models.tiny_decoder(None).config, norm="layer")
    with pytest.raises(ValueError, match="no published format"):
        architecture_for(config)
