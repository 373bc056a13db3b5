"""Pseudo-labels, FixMatch, UDA, training signal annealing and DAPT against slow versions of their papers' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import transfer
from ft_jax.core import compose, jit_step, make_step, optimizer, supervised
from ft_jax.core.outputs import Outputs
from ft_jax.models import tiny_encoder, with_classifier

ENCODER = tiny_encoder(jax.random.key(0), layers=1)
MODEL = with_classifier(ENCODER, 3, jax.random.key(1))
MODEL.params["head"]["kernel"] = 2.0 * jax.random.normal(jax.random.key(9), (16, 3))
IDS = jax.random.randint(jax.random.key(2), (12, 6), 1, 32)
LABELLED = {"input_ids": IDS[:4], "labels": jnp.array([0, 2, 1, 0])}
BATCH = {**LABELLED, "unlabelled": {"input_ids": IDS[4:]}}


def reverse(key, example):
    """A strong augmentation without chance: the tokens the other way round."""
    return {**example, "input_ids": example["input_ids"][::-1]}


def shifted(key, example):
    """A weak one."""
    return {**example, "input_ids": (example["input_ids"] + 1) % 32}


def probabilities(ids):
    logits = np.asarray(MODEL.apply(MODEL.params, {"input_ids": ids}).logits, np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def metrics_of(method, batch=BATCH, step=0):
    program = make_step(supervised(MODEL.apply), optimizer(optax.sgd, learning_rate=0.1), method)
    state = program.init(MODEL.params, jax.random.key(3)).replace(step=jnp.int32(step))
    return jax.jit(program.step)(state, batch)[1]


def test_fixmatch_is_the_cross_entropy_with_confident_labels_of_weak_copies():
    threshold, losses = 0.6, []
    weak, strong = probabilities((IDS[4:] + 1) % 32), probabilities(IDS[4:, ::-1])
    for q, p in zip(weak, strong, strict=True):
        losses.append(-np.log(p[q.argmax()]) if q.max() >= threshold else 0.0)
    assert 1 < np.count_nonzero(losses) < 8
    method = transfer.fixmatch(MODEL.apply, strong=reverse, weak=shifted, weight=0.5, threshold=threshold)
    np.testing.assert_allclose(metrics_of(method)["transfer.fixmatch"], 0.5 * np.mean(losses), rtol=1e-4)


def test_uda_is_the_divergence_from_sharpened_confident_predictions():
    threshold, temperature, losses = 0.6, 0.4, []
    for p, other in zip(probabilities(IDS[4:]), probabilities(IDS[4:, ::-1]), strict=True):
        q = p ** (1 / temperature) / np.sum(p ** (1 / temperature))
        losses.append(np.sum(q * np.log(q / other)) if p.max() > threshold else 0.0)
    assert 1 < np.count_nonzero(losses) < 8
    method = transfer.uda(MODEL.apply, reverse, weight=2.0, temperature=temperature, threshold=threshold)
    np.testing.assert_allclose(metrics_of(method)["transfer.uda"], 2.0 * np.mean(losses), rtol=1e-4)


def test_pseudo_labels_ramp_up_as_in_equation_16():
    method = transfer.pseudo_labels(MODEL.apply, weight=3.0, threshold=0.0, begin=10, end=20)
    full = 3.0 * np.mean(-np.log(probabilities(IDS[4:]).max(-1)))
    for step, share in ((0, 0.0), (10, 0.0), (15, 0.5), (20, 1.0), (500, 1.0)):
        found = metrics_of(method, step=step)["transfer.pseudo_labels"]
        np.testing.assert_allclose(found, share * full, rtol=1e-4, atol=1e-7)


def test_targets_give_no_gradient():
    """With a target that the model's own prediction equals, the divergence is at its minimum and moves nothing."""
    same = transfer.uda(MODEL.apply, lambda key, example: example, weight=5.0, temperature=1.0, threshold=0.0)
    states = []
    for methods in ((same,), ()):
        program = make_step(supervised(MODEL.apply), optax.sgd(1.0), compose(*methods))
        state = program.init(MODEL.params, jax.random.key(3))
        states.append(jax.jit(program.step)(state, BATCH)[0].params)
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_weights_of_unlabelled_rows_count():
    padded = {"input_ids": jnp.concatenate([IDS[4:], IDS[:2]]), "weights": jnp.r_[jnp.ones(8), jnp.zeros(2)]}
    for method in (transfer.pseudo_labels(MODEL.apply, threshold=0.0), transfer.uda(MODEL.apply, reverse)):
        plain, filled = (metrics_of(method, {**LABELLED, "unlabelled": part}) for part in (BATCH["unlabelled"], padded))
        np.testing.assert_allclose(plain[method.name], filled[method.name], rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "alpha"),
    [
        ("log", lambda t: 1 - np.exp(-5 * t)),
        ("linear", lambda t: t),
        ("exp", lambda t: np.exp(5 * (t - 1))),
    ],
)
def test_annealing_counts_labels_the_model_does_not_know_yet(schedule, alpha):
    batch = {"input_ids": IDS, "labels": jnp.arange(12) % 3, "weights": jnp.ones(12).at[0].set(0.5)}
    own = probabilities(IDS)[np.arange(12), np.arange(12) % 3]
    threshold = alpha(0.3) * (1 - 1 / 3) + 1 / 3
    kept = np.asarray(batch["weights"]) * (own < threshold)
    assert 0 < np.count_nonzero(kept) < 12
    method = transfer.training_signal_annealing(MODEL.apply, steps=100, schedule=schedule)
    found = metrics_of(method, batch, step=30)["task"]
    np.testing.assert_allclose(found, np.sum(kept * -np.log(own)) / np.sum(kept), rtol=1e-4)
    whole = metrics_of(method, batch, step=100)["task"]
    weights = np.asarray(batch["weights"])
    np.testing.assert_allclose(whole, np.sum(weights * -np.log(own)) / weights.sum(), rtol=1e-4)


def test_continued_pretraining_comes_first_and_the_task_after():
    backbone = transfer.masked_language_modelling(ENCODER.apply)
    hidden = IDS[4:].at[:, ::3].set(0)
    batch = {**LABELLED, "unlabelled": {"input_ids": hidden, "labels": jnp.where(IDS[4:] != hidden, IDS[4:], -1)}}
    program = make_step(
        supervised(MODEL.apply), optimizer(optax.sgd, learning_rate=0.1), transfer.dapt(backbone, steps=2)
    )
    state, step, history = program.init(MODEL.params, jax.random.key(3)), jit_step(program.step), []
    head = np.asarray(MODEL.params["head"]["kernel"])
    for _ in range(3):
        state, metrics = step(state, batch)
        history.append(metrics)
        moved = np.abs(np.asarray(state.params["model"]["head"]["kernel"]) - head).max()
        assert (moved > 0) == (len(history) > 2)
    assert [float(metrics["task"]) > 0 for metrics in history] == [False, False, True]
    assert [float(metrics["transfer.dapt"]) > 0 for metrics in history] == [True, True, False]
    assert step.compilations() == 1
    assert set(jax.jit(program.evaluate)(state, LABELLED)[0]) == {"task"}


def linear(params, batch, key=None):
    return Outputs(hidden=batch["x"], unembedding=params["head"])


def noisy(key, example):
    return {**example, "x": example["x"] + 0.5 * jax.random.normal(key, (2,))}


@pytest.mark.parametrize(
    "method",
    [
        None,
        transfer.pseudo_labels(linear, weight=3.0, threshold=0.7),
        transfer.fixmatch(linear, noisy, weight=3.0, threshold=0.7),
        transfer.uda(linear, noisy, weight=3.0, threshold=0.5, temperature=0.5),
    ],
    ids=lambda method: "labels alone" if method is None else method.name,
)
def test_unlabelled_points_show_the_gap_between_two_classes(method):
    """One label each, off the middle of two long clusters, turns the border; the other points turn it back."""
    keys, labels = jax.random.split(jax.random.key(0)), jnp.arange(400) % 2
    middle = jnp.where(labels == 0, -1.5, 1.5)
    x = jnp.stack([middle + 0.3 * jax.random.normal(keys[0], (400,)), jax.random.normal(keys[1], (400,))], axis=-1)
    batch = {"x": jnp.array([[-1.5, -2.5], [1.5, 2.5]]), "labels": jnp.array([0, 1]), "unlabelled": {"x": x}}
    program = make_step(supervised(linear), optax.sgd(0.3), compose() if method is None else method)
    state, step = program.init({"head": jnp.zeros((2, 2))}, jax.random.key(1)), jit_step(program.step)
    for _ in range(200):
        state, _ = step(state, batch)
    accuracy = float(jnp.mean(jnp.argmax(x @ state.params["model"]["head"], axis=-1) == labels))
    assert accuracy < 0.9 if method is None else accuracy > 0.98


def test_bad_numbers_and_batches_are_refused():
    with pytest.raises(ValueError, match="threshold 1.5; give it a probability"):
        transfer.fixmatch(MODEL.apply, reverse, threshold=1.5)
    with pytest.raises(ValueError, match="temperature 0; give it a positive one"):
        transfer.uda(MODEL.apply, reverse, temperature=0)
    with pytest.raises(ValueError, match="ramp from step 5 to step 2"):
        transfer.pseudo_labels(MODEL.apply, begin=5, end=2)
    with pytest.raises(ValueError, match="no schedule 'sqrt'; use one of 'log', 'linear', 'exp'"):
        transfer.training_signal_annealing(MODEL.apply, steps=1, schedule="sqrt")
    with pytest.raises(KeyError, match=r"transfer.uda trains on batch\['unlabelled'\]"):
        metrics_of(transfer.uda(MODEL.apply, reverse), LABELLED)
    headless = transfer.pseudo_labels(lambda params, batch, key: Outputs(hidden=jnp.zeros((8, 2))))
    with pytest.raises(ValueError, match="the model's own predictions, but it has no head; give it one"):
        metrics_of(headless)
