from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core import tiny

from ft_jax.core import Outputs, forward, make_step, optimizer, parameters, supervised
from ft_jax.multimodal import clip, contrastive, embed

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "clip.npz")


def features(params, batch, key):
    """A tower that only passes its input on, moved by its one parameter."""
    return Outputs(hidden=batch["x"] + params["shift"])


def from_recorded(axis=None, optimiser=None, weight=1.0):
    image, text = GOLDEN["image"], GOLDEN["text"]
    widths = (image.shape[1], text.shape[1])
    method = clip(features, {"shift": jnp.zeros(widths[1])}, width=7, weight=weight, inputs=widths)
    program = make_step(forward(features), optimiser or optax.sgd(1.0), method, axis=axis)
    state = program.init({"shift": jnp.zeros(widths[0])}, jax.random.key(0))
    own = dict(state.params["multimodal.clip"])
    own["projection"] = {"kernel": jnp.asarray(GOLDEN["image_projection"])}
    own["other_projection"] = {"kernel": jnp.asarray(GOLDEN["text_projection"])}
    own["log_scale"] = jnp.asarray(GOLDEN["log_scale"])
    state = state.replace(params={**state.params, "multimodal.clip": own})
    return program, state, {"x": jnp.asarray(image), "paired": {"x": jnp.asarray(text)}}, method


def test_loss_embeddings_and_gradients_equal_transformers():
    program, state, batch, method = from_recorded()
    after, metrics = program.step(state, batch)
    np.testing.assert_allclose(metrics["multimodal.clip"], GOLDEN["loss"], rtol=1e-5)
    own, moved = state.params["multimodal.clip"], after.params["multimodal.clip"]
    for name, label in (("projection", "image_projection"), ("other_projection", "text_projection")):
        gradient = own[name]["kernel"] - moved[name]["kernel"]
        np.testing.assert_allclose(gradient, GOLDEN[f"gradient/{label}"], rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(GOLDEN["log_scale"] - moved["log_scale"], GOLDEN["gradient/log_scale"], rtol=1e-5)
    images, texts = embed(features, features, parameters(state, method), batch)
    np.testing.assert_allclose(images, GOLDEN["image_embeddings"], atol=1e-6)
    np.testing.assert_allclose(texts, GOLDEN["text_embeddings"], atol=1e-6)


def test_the_papers_pseudocode_gives_the_same_loss():
    rng = np.random.default_rng(0)
    sides = [rng.normal(size=(6, 5)) for _ in range(2)]
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    logits = x @ y.T * 20.0
    softmax = lambda a: np.exp(a) / np.exp(a).sum(axis=1, keepdims=True)  # noqa: E731
    expected = -(np.log(np.diag(softmax(logits))).mean() + np.log(np.diag(softmax(logits.T))).mean()) / 2
    np.testing.assert_allclose(contrastive(jnp.asarray(x), jnp.asarray(y), 20.0), expected, rtol=1e-5)


def test_devices_share_their_negatives():
    count = 4
    program, state, batch, _ = from_recorded()
    batch = jax.tree.map(lambda x: jnp.concatenate([x, x[:3] * 0.5 + x[1:4]]), batch)  # 8 pairs
    mapped, mapped_state, _, _ = from_recorded(axis="data")
    copies = jax.tree.map(lambda x: jnp.stack([x] * count), mapped_state)
    parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    step = jax.pmap(mapped.step, axis_name="data", devices=jax.devices()[:count])
    for _ in range(2):
        state, metrics = program.step(state, batch)
        copies, device_metrics = step(copies, parts)
        np.testing.assert_allclose(device_metrics["loss"], jnp.full(count, metrics["loss"]), rtol=1e-5)
    for one, many in zip(jax.tree.leaves(state.params), jax.tree.leaves(copies.params), strict=True):
        np.testing.assert_allclose(many, jnp.stack([one] * count), rtol=1e-4, atol=1e-5)


def test_the_scale_is_held_at_a_hundred_and_can_come_back():
    program, state, batch, _ = from_recorded(optimiser=optax.sgd(-1.0))
    aligned = {"x": batch["x"], "paired": {"x": jnp.flip(batch["paired"]["x"], axis=0)}}
    state, _ = program.step(state, aligned)
    np.testing.assert_allclose(jnp.exp(state.params["multimodal.clip"]["log_scale"]), 100.0, rtol=1e-5)
    down = make_step(forward(features), optax.sgd(1e-3), from_recorded()[3])
    state, _ = down.step(state, aligned)
    assert jnp.exp(state.params["multimodal.clip"]["log_scale"]) < 100.0


def test_the_scale_starts_at_one_over_seven_hundredths():
    method = clip(tiny.apply, tiny.params(), width=8, inputs=(tiny.WIDTH, tiny.WIDTH))
    whole = method.surgery({"model": tiny.params()}, jax.random.key(0))
    np.testing.assert_allclose(jnp.exp(whole["multimodal.clip"]["log_scale"]), 1 / 0.07, rtol=1e-6)


def test_pairs_are_found_among_all_after_training():
    key = jax.random.key(2)
    ids = jax.random.randint(key, (16, 6), 0, tiny.CLASSES)
    mask = (jnp.arange(6) < 4).astype(jnp.int32) * jnp.ones((16, 1), jnp.int32)
    batch = {"input_ids": ids, "attention_mask": mask, "paired": {"input_ids": (ids * 5 + 3) % tiny.CLASSES}}
    method = clip(tiny.apply, tiny.params(), width=8, inputs=(tiny.WIDTH, tiny.WIDTH))
    program = make_step(forward(tiny.apply), optimizer(optax.adam, learning_rate=1e-2), method)
    state = program.init(tiny.params(), jax.random.key(0))

    def found(state):
        x, y = embed(tiny.apply, tiny.apply, parameters(state, method), batch)
        return float(jnp.mean(jnp.argmax(x @ y.T, axis=1) == jnp.arange(16)))

    before = found(state)
    step = jax.jit(program.step, donate_argnums=0)
    for _ in range(60):
        state, _ = step(state, batch)
    assert before < 0.5 and found(state) == 1.0


def test_masked_tokens_do_not_reach_the_embedding():
    method = clip(tiny.apply, tiny.params(), width=8, inputs=(tiny.WIDTH, tiny.WIDTH))
    state = make_step(forward(tiny.apply), optax.sgd(0.1), method).init(tiny.params(), jax.random.key(0))
    ids = jnp.array([[1, 2, 3, 4]])
    side = {"input_ids": ids, "attention_mask": jnp.array([[1, 1, 0, 0]])}
    changed = {**side, "input_ids": ids.at[0, 2:].set(9)}
    whole = parameters(state, method)
    one = embed(tiny.apply, tiny.apply, whole, {**side, "paired": side})
    other = embed(tiny.apply, tiny.apply, whole, {**changed, "paired": changed})
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_bad_pairs_are_refused_with_the_remedy():
    method = clip(tiny.apply, tiny.params(), width=8)
    program = make_step(supervised(tiny.apply), optax.sgd(0.1), method)
    state = program.init(tiny.params(), jax.random.key(0))
    with pytest.raises(KeyError, match="needs the second tower's batch under 'paired', but the batch has input_ids"):
        program.step(state, tiny.batch())
    with pytest.raises(ValueError, match="projects representations of width 8, but a tower gives 16; pass inputs="):
        program.step(state, {**tiny.batch(), "paired": tiny.batch()})
    terms, *_ = program.evaluate(state, tiny.batch())
    assert list(terms) == ["task"]
