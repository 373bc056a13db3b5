import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import transfer
from ft_jax.core import make_step, optimizer, supervised
from ft_jax.core.outputs import pooled
from ft_jax.core.params import digest
from ft_jax.data.augmentation import augmented
from ft_jax.models import ViTConfig, tiny_encoder, vit
from ft_jax.models.model import Forward
from ft_jax.transfer.reconstruction import hide_patches

KEY = jax.random.key(0)
MASKED = ViTConfig(image=(4, 6, 1), patch=2, width=8, layers=1, heads=2, mlp_width=16, mask_token=True, classes=3)

PLAIN = tiny_encoder(jax.random.key(0), layers=1)
DROPPED = PLAIN.configure(dropout=0.2)
LENGTHS = jnp.array([7, 4, 2, 5, 7, 3, 6, 1])
BATCH = {
    "input_ids": jax.random.randint(jax.random.key(1), (8, 7), 0, 32),
    "attention_mask": (jnp.arange(7) < LENGTHS[:, None]).astype(jnp.int32),
}


def obvious(anchors, positives, temperature):
    """InfoNCE, one example at a time in float64."""
    anchors, positives = np.asarray(anchors, np.float64), np.asarray(positives, np.float64)
    losses = []
    for i, anchor in enumerate(anchors):
        scores = [anchor @ other / np.linalg.norm(anchor) / np.linalg.norm(other) / temperature for other in positives]
        losses.append(np.log(np.sum(np.exp(scores))) - scores[i])
    return np.mean(losses)


def views(model, keys):
    """The mean hidden state of each example's real tokens under two dropout keys."""
    result = []
    for one in keys:
        hidden = np.asarray(model.apply(model.params, BATCH, one).hidden)
        result.append(np.stack([row[:length].mean(0) for row, length in zip(hidden, LENGTHS, strict=True)]))
    return result


def test_contrastive_equals_the_obvious_infonce_of_two_dropout_views():
    loss = transfer.contrastive(DROPPED.apply, temperature=0.3)
    program = make_step(loss, optimizer(optax.sgd, learning_rate=0.1), predict=lambda outputs, batch: None)
    state = program.init(DROPPED.params, jax.random.key(4))
    _, metrics = jax.jit(program.step)(state, BATCH)
    local = jax.random.fold_in(jax.random.fold_in(state.key, 0), 0)
    keys = [jax.random.fold_in(local, digest(view)) for view in ("one view", "the other view")]
    first, second = views(DROPPED, [jax.random.fold_in(key, digest("dropout")) for key in keys])
    assert np.abs(first - second).max() > 1e-2
    np.testing.assert_allclose(metrics["backbone"], obvious(first, second, 0.3), rtol=1e-5)


def test_contrastive_views_differ_by_the_augmentation_too():
    def reversed_or_not(key, example):
        turned = jax.random.bernoulli(key)
        return {**example, "images": jnp.where(turned, example["images"][::-1], example["images"])}

    model = vit(ViTConfig(image=(4, 4, 1), patch=2, width=8, layers=1, heads=2, mlp_width=8, classes=None), KEY)
    batch = {"images": jax.random.uniform(jax.random.key(1), (6, 4, 4, 1))}
    loss = transfer.contrastive(model.apply, 0.3, reversed_or_not)
    program = make_step(loss, optax.sgd(0.1), predict=lambda outputs, batch: None)
    state = program.init(model.params, jax.random.key(4))
    _, metrics = jax.jit(program.step)(state, batch)
    drawn = jax.random.fold_in(jax.random.fold_in(state.key, 0), digest("contrastive"))
    one, other = (augmented(reversed_or_not, jax.random.fold_in(drawn, i), batch) for i in (0, 1))
    assert np.any(one["images"] != other["images"])
    first, second = (np.asarray(model.apply(model.params, view).hidden) for view in (one, other))
    np.testing.assert_allclose(metrics["backbone"], obvious(first, second, 0.3), rtol=1e-5)
    plain = make_step(transfer.contrastive(model.apply, 0.3), optax.sgd(0.1), predict=lambda outputs, batch: None)
    evaluated = [jax.jit(one.evaluate)(state, batch)[0]["backbone"] for one in (program, plain)]
    np.testing.assert_array_equal(*evaluated)


def test_masked_image_modelling_is_the_obvious_distance_of_the_hidden_pixels():
    model = vit(MASKED, KEY)
    images = np.asarray(jax.random.uniform(jax.random.key(1), (3, 4, 6, 1)))
    method = transfer.joint(transfer.masked_image_modelling(model.apply, share=0.5), weight=2.0)
    program = make_step(supervised(model.apply), optax.sgd(0.1), method)
    state = jax.jit(program.init)(model.params, jax.random.key(4))
    own = state.params["transfer.joint"]
    assert own["kernel"].shape == (8, 4)
    batch = {"images": images, "labels": np.zeros(3, np.int32), "unlabelled": {"images": images}}
    _, metrics = jax.jit(program.step)(state, batch)

    drawn = jax.random.fold_in(jax.random.fold_in(state.key, 0), digest("masked_image_modelling"))
    mask = augmented(hide_patches(3, 6), drawn, {"images": images})["patch_mask"]
    tokens = Forward(dataclasses.replace(MASKED, tokens=True))
    hidden = np.asarray(tokens(model.params, {"images": images, "patch_mask": mask}).hidden)
    distances = []
    for image in range(3):
        for patch in range(6):
            if mask[image, patch]:
                y, x = 2 * (patch // 3), 2 * (patch % 3)
                found = hidden[image, 1 + patch] @ np.asarray(own["kernel"])
                distances += list(np.abs(found - images[image, y : y + 2, x : x + 2, 0].reshape(-1)))
    assert len(distances) == 3 * 3 * 4
    np.testing.assert_allclose(metrics["backbone"], 2 * np.mean(distances), rtol=1e-5)


def test_micro_batches_hide_the_patches_of_the_whole_batch():
    model = vit(MASKED, KEY)
    batch = {"images": jax.random.uniform(jax.random.key(1), (4, 4, 6, 1)), "labels": jnp.arange(4) % 3}
    batch |= {"unlabelled": {"images": batch["images"]}}
    method = transfer.joint(transfer.masked_image_modelling(model.apply, share=0.5))
    found = []
    for accumulate in (1, 2):
        program = make_step(supervised(model.apply), optax.sgd(0.1), method, accumulate=accumulate)
        found.append(jax.jit(program.step)(program.init(model.params, jax.random.key(4)), batch)[1]["backbone"])
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_masked_image_modelling_learns_with_its_own_layer():
    model = vit(MASKED, KEY)
    images = jax.random.uniform(jax.random.key(1), (3, 4, 6, 1))
    method = transfer.dapt(transfer.masked_image_modelling(model.apply, share=0.5), steps=100)
    program = make_step(supervised(model.apply), optimizer(optax.adam, learning_rate=1e-2), method)
    state = jax.jit(program.init)(model.params, jax.random.key(4))
    step = jax.jit(program.step)
    batch = {"images": images, "labels": jnp.zeros(3, jnp.int32), "unlabelled": {"images": images}}
    first = None
    for _ in range(60):
        state, metrics = step(state, batch)
        first = metrics["transfer.dapt"] if first is None else first
    assert metrics["transfer.dapt"] < 0.7 * first
    assert np.any(state.params["transfer.dapt"]["bias"])


def test_what_masked_image_modelling_cannot_hide_is_refused():
    with pytest.raises(ValueError, match="needs the apply of a vision transformer and has EncoderConfig's"):
        transfer.masked_image_modelling(PLAIN.apply)
    with pytest.raises(ValueError, match="build the model with mask_token=True"):
        transfer.masked_image_modelling(vit(dataclasses.replace(MASKED, mask_token=False), None).apply)
    with pytest.raises(ValueError, match="share 0.05, which hides 0 of 6 patches"):
        transfer.masked_image_modelling(vit(MASKED, None).apply, share=0.05)
    loss = transfer.masked_image_modelling(vit(MASKED, None).apply)
    program = make_step(loss, optax.sgd(0.1), predict=lambda outputs, batch: None)
    model = vit(MASKED, KEY)
    with pytest.raises(KeyError, match="pass it to one"):
        program.step(program.init(model.params, KEY), {"images": jnp.zeros((2, 4, 6, 1))})


def test_contrastive_takes_a_models_own_pooling():
    loss = transfer.contrastive(Forward(PLAIN.config, "mean"))
    outcomes = []
    for one in (loss, transfer.contrastive(PLAIN.apply)):
        program = make_step(one, optax.sgd(0.1), predict=lambda outputs, batch: None)
        outcomes.append(jax.jit(program.step)(program.init(PLAIN.params, jax.random.key(4)), BATCH)[1]["backbone"])
    np.testing.assert_allclose(*outcomes, rtol=1e-5)


def test_contrastive_over_devices_has_the_whole_batchs_negatives():
    loss = transfer.contrastive(PLAIN.apply)
    one = make_step(loss, optax.sgd(0.1), predict=lambda outputs, batch: None)
    many = make_step(loss, optax.sgd(0.1), predict=lambda outputs, batch: None, axis="data")
    state = one.init(PLAIN.params, jax.random.key(4))
    copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), state)
    parts = jax.tree.map(lambda leaf: leaf.reshape(4, 2, *leaf.shape[1:]), BATCH)
    alone, metrics = jax.jit(one.step)(state, BATCH)
    copies, shared = jax.pmap(many.step, axis_name="data", devices=jax.devices()[:4])(copies, parts)
    np.testing.assert_allclose(shared["backbone"], jnp.broadcast_to(metrics["backbone"], 4), rtol=1e-5)
    moved = 0.0
    leaves = map(jax.tree.leaves, (state.params, alone.params, copies.params))
    for before, a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a - before, b[3] - before, rtol=1e-3, atol=2e-6)
        moved = max(moved, float(np.abs(a - before).max()))
    assert moved > 1e-2


def test_rows_that_fill_a_batch_up_neither_count_nor_repel():
    """Also where they are spread unevenly over devices."""
    loss = transfer.contrastive(PLAIN.apply, temperature=0.3)
    weights = jnp.array([1.0, 1, 1, 1, 1, 0, 0, 0])
    filled, short = {**BATCH, "weights": weights}, jax.tree.map(lambda leaf: leaf[:5], BATCH)
    one, many = (make_step(loss, optax.sgd(0.1), predict=lambda *_: None, axis=axis) for axis in (None, "data"))
    state = one.init(PLAIN.params, jax.random.key(4))
    _, expected = jax.jit(one.step)(state, short)
    new, metrics = jax.jit(one.step)(state, filled)
    np.testing.assert_allclose(metrics["backbone"], expected["backbone"], rtol=1e-5)
    copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), state)
    parts = jax.tree.map(lambda leaf: leaf.reshape(2, 4, *leaf.shape[1:]), filled)
    copies, shared = jax.pmap(many.step, axis_name="data", devices=jax.devices()[:2])(copies, parts)
    np.testing.assert_allclose(shared["backbone"], jnp.broadcast_to(expected["backbone"], 2), rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (new.params, copies.params)), strict=True):
        np.testing.assert_allclose(a, b[1], rtol=1e-3, atol=2e-6)


def test_training_pulls_views_together_and_examples_apart():
    program = make_step(
        transfer.contrastive(DROPPED.apply), optimizer(optax.adam, learning_rate=3e-3), predict=lambda *_: None
    )
    state, step = program.init(DROPPED.params, jax.random.key(4)), jax.jit(program.step)
    history = []
    for _ in range(40):
        state, metrics = step(state, BATCH)
        history.append(float(metrics["backbone"]))
    assert np.mean(history[-5:]) < 0.5 * np.mean(history[:5])


def test_a_batch_of_one_has_nothing_to_repel():
    program = make_step(transfer.contrastive(PLAIN.apply), optax.sgd(0.1))
    state = program.init(PLAIN.params, jax.random.key(4))
    with pytest.raises(ValueError, match="compares the examples of a batch, which has only 1; use at least 2"):
        jax.eval_shape(program.step, state, jax.tree.map(lambda leaf: leaf[:1], BATCH))


def test_pooling_reads_real_tokens_alone():
    outputs = PLAIN.apply(PLAIN.params, BATCH)
    expected = views(PLAIN, jax.random.split(jax.random.key(0)))[0]
    np.testing.assert_allclose(pooled(outputs, BATCH), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        pooled(outputs, {"segment_ids": BATCH["attention_mask"]}), expected, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(pooled(outputs, {}), outputs.hidden.mean(1), rtol=1e-5, atol=1e-6)


def test_language_modelling_compares_no_examples():
    assert not transfer.masked_language_modelling(PLAIN.apply).couples
    assert not transfer.causal_language_modelling(PLAIN.apply).couples
