"""What trains and classifies with models that hold both towers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import models
from ft_jax.core import compose, make_step, merge, optimizer, parameters, supervised
from ft_jax.multimodal import clip_adapter, coop, lit, pairs, temperature, zero_shot
from ft_jax.transfer import lora

TINY = Path(__file__).parents[1] / "golden"


def loaded(name):
    return models.load(TINY / name, tokenizer=False), dict(np.load(TINY / name / "outputs.npz"))


def fields(model, rows, seed=0):
    rng = np.random.default_rng(seed)
    time = model.config.text.positions
    ids = rng.integers(1, model.config.vocabulary - 1, (rows, time))
    ids[:, -1] = model.config.vocabulary - 1
    images = rng.normal(size=(rows, *model.config.vision.image))
    return {"images": jnp.asarray(images, jnp.float32), "input_ids": jnp.asarray(ids, jnp.int32)}


@pytest.mark.parametrize(("name", "kind"), (("tiny_clip", "softmax"), ("tiny_siglip", "sigmoid")))
def test_the_loss_of_pairs_is_that_of_the_models_own_logits(name, kind):
    model, _ = loaded(name)
    batch = fields(model, 6)
    logits = model.apply(model.params, batch).logits
    if kind == "softmax":
        labels = jnp.arange(6)
        both = (optax.softmax_cross_entropy_with_integer_labels(one, labels).mean() for one in (logits, logits.T))
        expected = sum(both) / 2
    else:
        expected = models.sigmoid_contrastive(logits)
    program = make_step(pairs(model.apply, kind), optax.sgd(0.1), accumulate=3)
    state = program.init(model.params, jax.random.key(0))
    np.testing.assert_allclose(program.step(state, batch)[1]["loss"], expected, rtol=1e-5)


def test_pairs_of_one_side_are_refused():
    model, _ = loaded("tiny_clip")
    batch = fields(model, 2)
    program = make_step(pairs(model.apply), optax.sgd(0.1))
    state = program.init(model.params, jax.random.key(0))
    with pytest.raises(KeyError, match="needs images and input_ids, pair by pair"):
        program.step(state, {"images": batch["images"]})
    with pytest.raises(ValueError, match="kind is 'hinge'"):
        pairs(model.apply, "hinge")


@pytest.mark.parametrize("name", ("tiny_clip", "tiny_siglip"))
def test_zero_shot_logits_are_the_models_own_and_an_ensemble_is_the_mean_direction(name):
    model, _ = loaded(name)
    batch = fields(model, 4)
    expected = model.apply(model.params, batch).logits
    alone = zero_shot(model.apply, batch["input_ids"])(model.params, {"images": batch["images"]})
    np.testing.assert_allclose(alone.logits, expected, rtol=2e-4, atol=2e-5)
    ensemble = zero_shot(model.apply, batch["input_ids"].reshape(2, 2, -1))(model.params, batch)
    texts = np.array(model.apply(model.params, {"input_ids": batch["input_ids"]}).hidden)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    mean = texts.reshape(2, 2, -1).mean(axis=1)
    np.testing.assert_allclose(ensemble.unembedding.T, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)


def learn(model, method, steps=30, rate=2e-2):
    batch = {**fields(model, 8, seed=1), "labels": jnp.arange(8) % 3}
    prompts = np.array(fields(model, 3, seed=2)["input_ids"])
    prompts[:, 1:3] = (5, 6)
    classify = zero_shot(model.apply, prompts)
    program = make_step(supervised(classify), optimizer(optax.adam, learning_rate=rate), method)
    state = program.init(model.params, jax.random.key(0))
    first = program.evaluate(state, batch)
    step = jax.jit(program.step)
    for _ in range(steps):
        state, metrics = step(state, batch)
    return state, first, float(metrics["loss"]), classify, batch


def test_coop_learns_the_prompts_words_alone_and_starts_at_their_own():
    model, _ = loaded("tiny_clip")
    state, first, last, classify, batch = learn(model, coop((5, 6)))
    start = classify(model.params, batch).logits
    np.testing.assert_allclose(first.predictions, start, rtol=1e-5, atol=1e-5)
    learned = [leaf.shape for leaf in jax.tree.leaves(state.params)]
    assert learned == [(2, model.config.text.width)]
    assert last < float(first.terms["task"]) - 0.05
    dense = merge(parameters(state, coop((5, 6)))["model"])
    changed = np.any(
        np.asarray(dense["text"]["embeddings"]["tokens"] != model.params["text"]["embeddings"]["tokens"]), axis=1
    )
    assert np.flatnonzero(changed).tolist() == [5, 6]


def test_coop_refuses_words_that_can_not_be():
    model, _ = loaded("tiny_clip")
    for words in ((), (5, 5)):
        with pytest.raises(ValueError, match="give at least one token id, each once"):
            coop(words)
    program = make_step(supervised(model.apply), optax.sgd(0.1), coop((10**6,)))
    with pytest.raises(ValueError, match="give ids of its tokens"):
        program.init(model.params, jax.random.key(0))


def test_clip_adapter_has_the_papers_formula_and_leaves_the_towers():
    model, _ = loaded("tiny_clip")
    method = clip_adapter(reduction=2, ratio=0.4)
    state, first, last, classify, batch = learn(model, method)
    assert last < float(first.terms["task"]) - 0.05
    own = state.params["model"]["image_projection"]["kernel"]
    assert len(jax.tree.leaves(state.params)) == 2
    outputs = classify(model.params, batch)
    scale = float(jnp.exp(model.params["log_scale"]))
    f = np.asarray(outputs.hidden) / scale
    new = np.maximum(np.maximum(f @ own.down, 0) @ own.up, 0)
    mixed = 0.4 * new + 0.6 * f
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    found = classify(parameters(state, method)["model"], batch).logits
    np.testing.assert_allclose(found, scale * mixed @ np.asarray(outputs.unembedding), rtol=1e-4, atol=1e-4)


def test_lit_leaves_the_image_tower_and_an_adapter_over_it_still_learns():
    model, _ = loaded("tiny_clip")
    locked = make_step(pairs(model.apply), optax.sgd(0.1), compose(temperature(), lit("model/vision/*")))
    state = locked.init(model.params, jax.random.key(0))
    assert not jax.tree.leaves(state.params["model"]["vision"]) and jax.tree.leaves(state.params["model"]["text"])
    both = compose(lit("model/vision/*"), lora(rank=2, targets="*/vision/*attention/*/kernel"))
    adapted = make_step(pairs(model.apply), optax.sgd(0.1), both).init(model.params, jax.random.key(0))
    assert jax.tree.leaves(adapted.params["model"]["vision"])
    with pytest.raises(ValueError, match="no parameter matches"):
        make_step(pairs(model.apply), optax.sgd(0.1), lit("model/picture/*")).init(model.params, jax.random.key(0))
