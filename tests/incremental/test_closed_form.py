"""Closed-form heads: against scikit-learn, numpy and the plain recursion, in any cut of the stream."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid

from ft_jax.core import Outputs, compose, make_step, outputs_of, supervised
from ft_jax.incremental import nearest_mean, ranpac, slda

WIDTH, CLASSES, COUNT = 5, 3, 48


def network(params, batch, key):
    return Outputs(hidden=jnp.tanh(batch["x"] @ params["layer"]), unembedding=params["head"])


PARAMS = {"layer": jnp.eye(WIDTH), "head": jnp.ones((WIDTH, CLASSES))}


def examples():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, CLASSES, COUNT)
    x = 0.5 * draw.normal(size=(CLASSES, WIDTH))[labels] + 0.3 * draw.normal(size=(COUNT, WIDTH))
    return x.astype(np.float32), labels.astype(np.int32)


def answered(method, stacks):
    """The logits for all examples after stacks of batches were seen, one call each."""
    program = make_step(supervised(network), optax.sgd(0.1), method)
    state = program.init(PARAMS, jax.random.key(3))
    after = jax.jit(program.after_task)
    for stack in stacks:
        state = after(state, stack)
    x, _ = examples()
    return np.asarray(outputs_of(state, compose(method), network, {"x": jnp.asarray(x)}).logits), state


def stacks(sizes, batch=4):
    """The examples in order, cut into stacks of so many batches, the last filled up with rows of weight 0."""
    x, labels = examples()
    made, at = [], 0
    for size in sizes:
        rows = slice(at, at + size * batch)
        part = {"x": x[rows], "labels": labels[rows], "weights": np.ones(len(x[rows]), np.float32)}
        lacks = size * batch - len(part["x"])
        part = {name: np.concatenate([one, np.repeat(one[:1] * 0 + 1, lacks, axis=0)]) for name, one in part.items()}
        part["weights"][size * batch - lacks :] = 0
        made.append(jax.tree.map(lambda one, size=size: jnp.asarray(one).reshape(size, batch, *one.shape[1:]), part))
        at += size * batch
    return made


CUTS = [(12,), (5, 7), (3, 10)]
"""48 examples in batches of 4; the last cut has 4 rows that are padding."""


@pytest.mark.parametrize("cut", CUTS)
def test_nearest_mean_is_the_nearest_centroid_of_features_of_length_1(cut):
    x, labels = examples()
    found, _ = answered(nearest_mean(network, PARAMS, {"x": x[:2]}), stacks(cut))
    features = np.tanh(x)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    means = np.stack([features[labels == c].mean(0) for c in range(CLASSES)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    expected = -np.sum((features[:, None] - means) ** 2, axis=-1) + 1.0
    np.testing.assert_allclose(found, expected, atol=1e-5)
    plain, _ = answered(nearest_mean(network, PARAMS, {"x": x[:2]}, normalise=False), stacks(cut))
    sklearn = NearestCentroid().fit(np.tanh(x), labels).predict(np.tanh(x))
    np.testing.assert_array_equal(plain.argmax(-1), sklearn)


@pytest.mark.parametrize("cut", CUTS)
def test_ranpac_is_ridge_regression_on_its_random_features(cut):
    x, labels = examples()
    found, state = answered(ranpac(network, PARAMS, {"x": x[:2]}, width=20, ridge=0.5), stacks(cut))
    features = np.maximum(np.tanh(x) @ np.asarray(state.memory["incremental.ranpac"]["projection"]), 0)
    ridge = Ridge(alpha=0.5, fit_intercept=False, solver="cholesky").fit(features.astype(np.float64), np.eye(3)[labels])
    np.testing.assert_allclose(found, ridge.predict(features), atol=2e-3)


@pytest.mark.parametrize("cut", CUTS)
def test_slda_is_the_papers_recursion_one_example_after_another_and_near_to_the_whole_datas(cut):
    x, labels = examples()
    found, _ = answered(slda(network, PARAMS, {"x": x[:2]}, shrinkage=0.01), stacks(cut))
    z = np.tanh(x).astype(np.float64)
    means, counts, covariance = np.zeros((CLASSES, WIDTH)), np.zeros(CLASSES), np.zeros((WIDTH, WIDTH))
    for t, (one, y) in enumerate(zip(z, labels, strict=True)):
        away = one - means[y]
        covariance = (t * covariance + t * np.outer(away, away) / (t + 1)) / (t + 1)
        means[y] = (counts[y] * means[y] + one) / (counts[y] + 1)
        counts[y] += 1
    precision = np.linalg.inv(0.99 * covariance + 0.01 * np.eye(WIDTH))
    expected = z @ precision @ means.T - 0.5 * np.sum(means @ precision * means, axis=1)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    whole = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(CLASSES, 1 / CLASSES)).fit(z, labels).predict(z)
    assert np.mean(found.argmax(-1) == whole) > 0.9


@pytest.mark.parametrize("build", [nearest_mean, slda, ranpac])
def test_a_class_that_came_first_is_not_forgotten_and_one_that_never_came_is_not_answered(build):
    x, labels = examples()
    order = np.argsort(labels, kind="stable")
    first = {"x": x[order], "labels": labels[order]}
    parts = [
        {name: jnp.asarray(one[np.flatnonzero(first["labels"] == c)[:12]])[None] for name, one in first.items()}
        for c in range(CLASSES)
    ]
    method = build(network, PARAMS, {"x": x[:2]})
    two, _ = answered(method, parts[:2])
    assert set(two.argmax(-1)) == {0, 1}
    three, _ = answered(method, parts)
    assert np.mean(three.argmax(-1) == labels) > 0.8
    untouched, _ = answered(method, [])
    np.testing.assert_allclose(untouched, np.tanh(x) @ np.ones((WIDTH, CLASSES)), rtol=1e-5, atol=1e-6)


def test_training_sees_the_models_own_head_and_what_cannot_be_is_refused():
    x, labels = examples()
    method = nearest_mean(network, PARAMS, {"x": x[:2]})
    batch = {"x": jnp.asarray(x[:4]), "labels": jnp.asarray(labels[:4])}
    with_it, plain = (make_step(supervised(network), optax.sgd(0.1), one) for one in (method, compose()))
    ours, _ = with_it.step(with_it.init(PARAMS, jax.random.key(0)), batch)
    theirs, _ = plain.step(plain.init(PARAMS, jax.random.key(0)), batch)
    np.testing.assert_array_equal(ours.params["model"]["head"], theirs.params["model"]["head"])
    with pytest.raises(ValueError, match="answers in place of a head, and the model has none"):
        nearest_mean(lambda params, batch, key: Outputs(hidden=batch["x"]), PARAMS, {"x": x[:2]})
    with pytest.raises(ValueError, match="needs 'labels' that are classes"):
        answered(method, [{"x": jnp.zeros((1, 2, WIDTH))}])
    with pytest.raises(ValueError, match="shrinkage=0"):
        slda(network, PARAMS, {"x": x[:2]}, shrinkage=0)
    with pytest.raises(ValueError, match="width 0"):
        ranpac(network, PARAMS, {"x": x[:2]}, width=0)
