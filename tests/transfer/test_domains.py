"""DANN, Deep CORAL and MMD against closed forms, slow versions and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import meta, transfer
from ft_jax.core import compose, jit_step, make_step, optimizer, supervised
from ft_jax.core.outputs import Outputs, pooled
from ft_jax.models import tiny_encoder, with_classifier
from ft_jax.transfer.coral import covariance
from ft_jax.transfer.dann import domain_logits, reverse_gradient
from ft_jax.transfer.mmd import discrepancy

MODEL = with_classifier(tiny_encoder(jax.random.key(0), layers=1), 3, jax.random.key(1))
IDS = jax.random.randint(jax.random.key(2), (14, 6), 0, 32)
LENGTHS = 2 + jnp.arange(14) % 5
MASK = (jnp.arange(6) < LENGTHS[:, None]).astype(jnp.int32)
BATCH = {
    "input_ids": IDS[:6],
    "attention_mask": MASK[:6],
    "labels": jnp.arange(6) % 3,
    "weights": jnp.array([1.0, 1, 1, 1, 1, 0]),
    "unlabelled": {"input_ids": IDS[6:], "attention_mask": MASK[6:]},
}


def first_step(method, batch=BATCH):
    program = make_step(supervised(MODEL.apply), optimizer(optax.sgd, learning_rate=0.1), method)
    state = program.init(MODEL.params, jax.random.key(3))
    return state, *jax.jit(program.step)(state, batch)


def features():
    """Source (without the row that fills up) and target representations, float64."""
    source = MODEL.apply(MODEL.params, {name: BATCH[name][:5] for name in ("input_ids", "attention_mask")})
    target = MODEL.apply(MODEL.params, BATCH["unlabelled"])
    return np.asarray(source.hidden, np.float64), np.asarray(target.hidden, np.float64)


def test_coral_is_the_papers_distance_of_numpys_covariances():
    _, _, metrics = first_step(transfer.coral(MODEL.apply, weight=3.0))
    source, target = (np.cov(x, rowvar=False) for x in features())
    expected = 3.0 * np.sum((source - target) ** 2) / (4 * source.shape[0] ** 2)
    assert expected > 1e-5
    np.testing.assert_allclose(metrics["transfer.coral"], expected, rtol=1e-4)


def test_mmd_is_the_mean_over_kernels_and_pairs_one_by_one():
    _, _, metrics = first_step(transfer.mmd(MODEL.apply, weight=2.0, bandwidths=(0.5, 2.0)))
    source, target = features()
    rows = np.concatenate([source, target])
    distances = [np.sum((x - y) ** 2) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]
    scale = np.mean(distances)

    def kernel(a, b):
        pairs = [np.sum((x - y) ** 2) / scale for x in a for y in b]
        return np.mean([np.exp(-d / 0.5) / 2 + np.exp(-d / 2.0) / 2 for d in pairs])

    expected = 2.0 * (kernel(source, source) + kernel(target, target) - 2 * kernel(source, target))
    assert expected > 1e-2
    np.testing.assert_allclose(metrics["transfer.mmd"], expected, rtol=1e-4)


def test_mmd_of_two_points_in_closed_form():
    one, other = (jnp.array([[0.0]]), jnp.ones(1)), (jnp.array([[2.0]]), jnp.ones(1))
    np.testing.assert_allclose(discrepancy(one, other, (1.0,)), 2 - 2 * np.exp(-1.0), rtol=1e-6)


def test_dann_is_the_classifiers_loss_on_both_domains():
    state, _, metrics = first_step(transfer.dann(MODEL.apply, BATCH, steps=10, hidden=8))
    source, target = features()
    own = state.params["transfer.dann"]
    probability = lambda x: 1 / (1 + np.exp(-np.asarray(domain_logits(own, jnp.asarray(x, jnp.float32)), np.float64)))  # noqa: E731
    expected = -np.mean(np.log(1 - probability(source))) - np.mean(np.log(probability(target)))
    np.testing.assert_allclose(metrics["transfer.dann"], expected, rtol=1e-4)


def test_the_reversed_gradient_is_minus_the_finite_difference():
    w = np.linspace(-1, 1, 5)
    loss = lambda x: jnp.sum(jnp.sin(w * x) ** 2)  # noqa: E731
    x, step = jnp.linspace(0.1, 2.0, 5), 1e-3
    np.testing.assert_array_equal(reverse_gradient(x, 0.7), x)
    found = jax.grad(lambda x: loss(reverse_gradient(x, 0.7)))(x)
    differences = [(loss(x.at[i].add(step)) - loss(x.at[i].add(-step))) / (2 * step) for i in range(5)]
    np.testing.assert_allclose(found, -0.7 * np.asarray(differences), rtol=2e-2, atol=1e-4)


def test_one_step_moves_the_model_against_the_classifier_and_the_classifier_along():
    """At full reversal the model goes up the domain loss that the classifier goes down."""
    method = transfer.dann(MODEL.apply, BATCH, steps=1e-6, gamma=100.0, hidden=8)
    program = make_step(supervised(MODEL.apply), optimizer(optax.sgd, learning_rate=1.0), method)
    state = program.init(MODEL.params, jax.random.key(3)).replace(step=jnp.int32(1))
    new, _ = jax.jit(program.step)(state, BATCH)
    plain = make_step(supervised(MODEL.apply), optimizer(optax.sgd, learning_rate=1.0))
    alone, _ = jax.jit(plain.step)(plain.init(MODEL.params, jax.random.key(3)), BATCH)

    def domain_loss(model, own):
        outputs = [MODEL.apply(model, batch) for batch in (BATCH, BATCH["unlabelled"])]
        source, target = (
            domain_logits(own, pooled(one, batch)) for one, batch in zip(outputs, (BATCH,) * 2, strict=True)
        )
        counted = BATCH["weights"] * jax.nn.softplus(source)
        return jnp.sum(counted) / jnp.sum(BATCH["weights"]) + jnp.mean(jax.nn.softplus(-target))

    gradients = jax.grad(domain_loss, argnums=(0, 1))(MODEL.params, state.params["transfer.dann"])
    moved = jax.tree.map(jnp.subtract, new.params["model"], alone.params["model"])
    for step, gradient in zip(jax.tree.leaves(moved), jax.tree.leaves(gradients[0]), strict=True):
        np.testing.assert_allclose(step, gradient, rtol=1e-3, atol=2e-5)
    own = jax.tree.map(jnp.subtract, new.params["transfer.dann"], state.params["transfer.dann"])
    for step, gradient in zip(jax.tree.leaves(own), jax.tree.leaves(gradients[1]), strict=True):
        np.testing.assert_allclose(step, -gradient, rtol=1e-3, atol=2e-5)


def shifted(key):
    """Two classes by the first feature; the target's third feature is moved by 4."""
    x = jax.random.normal(key, (64, 3))
    labels = (x[:, 0] > 0).astype(jnp.int32)
    return {"x": x, "labels": labels, "unlabelled": {"x": x[::-1] + jnp.array([0.0, 0.0, 4.0])}}


def linear(params, batch, key=None):
    return Outputs(hidden=batch["x"] @ params["layers"]["kernel"], unembedding=params["head"]["kernel"])


@pytest.mark.parametrize("name", ["coral", "mmd", "dann"])
def test_domains_come_together(name):
    batch = shifted(jax.random.key(0))
    if name == "coral":
        batch["unlabelled"]["x"] = batch["unlabelled"]["x"] * jnp.array([1.0, 1.0, 3.0])
    method = {
        "coral": transfer.coral(linear, weight=1.0),
        "mmd": transfer.mmd(linear, weight=1.0),
        "dann": transfer.dann(linear, batch, steps=100, hidden=16),
    }[name]
    params = {"layers": {"kernel": jnp.eye(3, 4)}, "head": {"kernel": jnp.zeros((4, 2))}}

    def gap(params):
        source, target = (linear(params, part).hidden for part in (batch, batch["unlabelled"]))
        ones = jnp.ones(64)
        if name == "coral":
            return float(jnp.sum(jnp.square(covariance(source, ones) - covariance(target, ones))))
        return float(discrepancy((source, ones), (target, ones)))

    program = make_step(supervised(linear), optimizer(optax.adam, learning_rate=2e-2), method)
    state, step = program.init(params, jax.random.key(1)), jit_step(program.step)
    before = gap(params)
    for _ in range(200):
        state, metrics = step(state, batch)
    # The adversarial game circles around its balance, the distances fall to their minimum.
    assert gap(state.params["model"]) < (0.6 if name == "dann" else 0.3) * before
    assert metrics["task"] < 0.3


def test_of_episodes_the_query_is_the_source():
    plain = {field: BATCH[field] for field in ("input_ids", "labels", "weights")}
    batch = {
        **meta.episodes(jax.tree.map(lambda x: jnp.concatenate([x, x[:2]]), plain)),
        "unlabelled": BATCH["unlabelled"],
    }
    method = compose(transfer.coral(MODEL.apply), meta.maml())
    _, _, metrics = first_step(method, batch)
    query = batch["query"]["input_ids"].reshape(-1, 6)
    source = np.asarray(MODEL.apply(MODEL.params, {"input_ids": query}).hidden)
    counted = np.asarray(batch["query"]["weights"]).reshape(-1) > 0
    gap = np.cov(source[counted], rowvar=False) - np.cov(features()[1], rowvar=False)
    np.testing.assert_allclose(metrics["transfer.coral"], np.sum(gap**2) / (4 * gap.shape[0] ** 2), rtol=1e-3)


def test_what_cannot_be_aligned_is_refused():
    with pytest.raises(KeyError, match=r"transfer.coral trains on batch\['unlabelled'\], which the batch lacks"):
        first_step(transfer.coral(MODEL.apply), {field: x for field, x in BATCH.items() if field != "unlabelled"})
    with pytest.raises(ValueError, match="aligns 'attention'; give it 'hidden' or 'logits'"):
        transfer.mmd(MODEL.apply, on="attention")
    with pytest.raises(ValueError, match="grows over 0 steps"):
        transfer.dann(MODEL.apply, {}, steps=0)
