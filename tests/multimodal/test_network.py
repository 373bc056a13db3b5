"""One network of several modalities; any may be missing, and then it is as if the model had never had it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import models
from ft_jax.core import compose, jit_step, make_step, never, optimizer, parameters, supervised
from ft_jax.core.method import Method
from ft_jax.multimodal import modality_dropout, model
from ft_jax.multimodal.network import FUSIONS
from ft_jax.training.serving.trees import put_together, take_apart
from ft_jax.transfer import lora

ROWS, CLASSES = 8, 3
NAMES = ("image", "text", "audio", "table")


def encoders():
    keys = jax.random.split(jax.random.key(0), 4)
    return {
        "image": models.build(models.ViTConfig((8, 8, 1), 4, 16, 1, 2, 16, classes=None, tokens=True), keys[0]),
        "text": models.tiny_encoder(keys[1], layers=1),
        "audio": models.build(models.SignalConfig(40, patch=8, width=16, layers=1, heads=2, mlp_width=16), keys[2]),
        "table": models.build(models.TabularConfig(5, width=12, layers=1, heads=2, mlp_width=16), keys[3]),
    }


def batch(seed=0):
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(ROWS, 5)).astype(np.float32)
    numbers[2, 3] = np.nan
    return {
        "image": {"images": jnp.asarray(rng.random((ROWS, 8, 8, 1)), jnp.float32)},
        "text": {"input_ids": jnp.asarray(rng.integers(0, 32, (ROWS, 6))),
                 "attention_mask": jnp.asarray(np.arange(6) < rng.integers(2, 7, (ROWS, 1)), jnp.int32)},
        "audio": {"signals": jnp.asarray(rng.normal(size=(ROWS, 40)), jnp.float32)},
        "table": {"numbers": jnp.asarray(numbers)},
        "labels": jnp.asarray(rng.integers(0, CLASSES, ROWS)),
    }  # fmt: skip


def network(fusion, head=CLASSES):
    built = model(encoders(), fusion, head, width=16, key=jax.random.key(1))
    # The head is drawn small; answers of order one make differences plain.
    head = {"head": jax.tree.map(lambda x: 50 * x, built.params["head"])} if head else {}
    return dataclasses.replace(built, params={**built.params, **head})


@pytest.mark.parametrize(("fusion", "gone"), zip(FUSIONS, (*NAMES, "text"), strict=True))
def test_a_missing_modality_equals_the_model_without_it_whatever_stands_in_its_place(fusion, gone):
    whole, fields = network(fusion), batch()
    there = jnp.asarray([1, 0, 1, 0, 0, 1, 1, 0], jnp.float32)
    bad = jax.tree.map(
        lambda x: jnp.where(jnp.reshape(there, (-1,) + (1,) * (x.ndim - 1)) > 0, x, jnp.full_like(x, 7)), fields[gone]
    )
    answers = jax.jit(whole.apply)(whole.params, {**fields, gone: {**bad, "present": there}}).logits
    rest = {name: one for name, one in encoders().items() if name != gone}
    smaller = model(rest, fusion, CLASSES, width=16, key=jax.random.key(1))
    params = {**whole.params, "encoders": {n: p for n, p in whole.params["encoders"].items() if n != gone}}
    alone = jax.jit(smaller.apply)(params, {name: part for name, part in fields.items() if name != gone}).logits
    full = jax.jit(whole.apply)(whole.params, fields).logits
    missing = np.asarray(there) == 0
    np.testing.assert_allclose(answers[missing], alone[missing], atol=2e-5)
    np.testing.assert_allclose(answers[~missing], full[~missing], atol=2e-5)
    assert np.abs(np.asarray(alone - full)).max() > 1e-3
    left = {name: part for name, part in fields.items() if name != gone}
    np.testing.assert_allclose(jax.jit(whole.apply)(whole.params, left).logits, alone, atol=2e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_nothing_of_a_missing_input_reaches_a_gradient(fusion):
    whole, fields = network(fusion), batch()
    nowhere = {**fields, "audio": {"signals": jnp.full((ROWS, 40), 1e6), "present": jnp.zeros(ROWS)}}
    program = make_step(supervised(whole.apply), optax.sgd(1.0))
    state, metrics = jax.jit(program.step)(program.init(whole.params, jax.random.key(0)), nowhere)
    for before, after in zip(
        jax.tree.leaves(whole.params["encoders"]["audio"]),
        jax.tree.leaves(state.params["model"]["encoders"]["audio"]),
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)
    assert np.isfinite(metrics["loss"])


def test_presence_as_the_pipeline_writes_it_and_an_empty_text_are_missing():
    whole, fields = network("gate"), batch()
    flags = jnp.asarray([1, 0] * 4, jnp.float32)
    by_number = whole.apply(whole.params, {**fields, "image": {**fields["image"], "present": flags}}).logits
    by_field = whole.apply(whole.params, {**fields, "image": {**fields["image"], "present": {"images": flags}}}).logits
    np.testing.assert_array_equal(by_number, by_field)
    empty = {**fields["text"], "attention_mask": fields["text"]["attention_mask"] * flags[:, None].astype(jnp.int32)}
    said = whole.apply(whole.params, {**fields, "text": {**fields["text"], "present": flags}}).logits
    np.testing.assert_allclose(whole.apply(whole.params, {**fields, "text": empty}).logits, said, atol=1e-6)


def test_an_empty_cell_is_out_of_sight():
    table = encoders()["table"]
    numbers = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5)), jnp.float32)
    gone = numbers.at[:, 2].set(jnp.nan)
    changed = jax.tree.map(lambda x: x, table.params)
    changed["offsets"] = changed["offsets"].at[2].set(9.0)
    one, other = (table.apply(params, {"numbers": gone}).hidden for params in (table.params, changed))
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(np.asarray(table.apply(changed, {"numbers": numbers}).hidden - one)).max() > 1e-2


def test_sound_is_read_through_its_log_mel_spectrum():
    config = models.SignalConfig(3200, patch=4, width=16, layers=1, heads=2, mlp_width=16, mels=8)
    network = models.build(config, jax.random.key(0))
    sound = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3200)), jnp.float32)
    hidden = network.apply(network.params, {"audio": sound}).hidden
    frames = jnp.swapaxes(models.log_mel(sound, 8), 1, 2)
    plain = models.build(dataclasses.replace(config, samples=20, mels=None, channels=8), None)
    np.testing.assert_allclose(hidden, plain.apply(network.params, {"signals": frames}).hidden, atol=1e-5)


def test_parts_are_frozen_and_adapted_by_filters():
    whole = network("resampler")
    method = compose(
        Method("still", trainable=never("model/encoders/text/*")),
        lora(rank=2, targets="*/encoders/image/*attention/*/kernel", also=("*/head/*",)),
    )
    state = make_step(supervised(whole.apply), optax.sgd(0.1), method).init(whole.params, jax.random.key(0))
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(state.params)
    ]
    assert paths and all("transfer.lora" in path or path.startswith("model/head") for path in paths)
    frozen = make_step(
        supervised(whole.apply), optax.sgd(0.1), Method("still", trainable=never("model/encoders/text/*"))
    )
    learned = frozen.init(whole.params, jax.random.key(0)).params["model"]
    assert not jax.tree.leaves(learned["encoders"]["text"]) and jax.tree.leaves(learned["encoders"]["audio"])


def test_it_learns_with_modality_dropout_and_devices_and_micro_batches_agree():
    whole, fields = network("concatenation"), batch()
    method = modality_dropout(NAMES, 0.3)
    program, cut = (
        make_step(supervised(whole.apply), optimizer(optax.adam, learning_rate=1e-2), method, accumulate=count)
        for count in (1, 2)
    )
    state = program.init(whole.params, jax.random.key(0))
    metrics, again = (jax.jit(one.step)(state, fields)[1] for one in (program, cut))
    np.testing.assert_allclose(metrics["loss"], again["loss"], rtol=1e-5)
    step = jit_step(program.step)
    first = float(program.evaluate(state, fields).terms["task"])
    for _ in range(40):
        state, _ = step(state, fields)
    assert float(program.evaluate(state, fields).terms["task"]) < first / 2
    assert parameters(state, method)


def test_its_apply_can_be_written_down_with_a_run():
    whole = network("gate")
    told, _ = take_apart(whole.apply)
    assert put_together(told, {}) == whole.apply and hash(whole.apply) is not None


def test_bad_models_and_batches_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="fusion 'sum' is unknown; use 'concatenation'"):
        model(encoders(), "sum", key=None)
    with pytest.raises(ValueError, match="has no 'latents'"):
        model(encoders(), "gate", key=None, latents=3)
    with pytest.raises(ValueError, match="needs at least one modality"):
        model({}, key=None)
    with pytest.raises(ValueError, match="has a head of its own"):
        model({"image": models.vit(models.ViTConfig((8, 8, 1), 4, 16, 1, 2, 16), None)}, key=None)
    whole = network("mean")
    with pytest.raises(KeyError, match="the model reads image, text, audio, table and the batch has labels"):
        whole.apply(whole.params, {"labels": jnp.zeros(2)})
    one = batch()["image"] | {"present": jnp.ones(ROWS)}
    with pytest.raises(KeyError, match="has the modality 'video' and the model reads image, text, audio, table; leave"):
        whole.apply(whole.params, {"image": one, "video": one})
    with pytest.raises(ValueError, match="cut or fill it"):
        whole.apply(whole.params, {"audio": {"signals": jnp.zeros((2, 41))}})
    with pytest.raises(ValueError, match="must divide the 40 steps"):
        models.SignalConfig(40, patch=7)
