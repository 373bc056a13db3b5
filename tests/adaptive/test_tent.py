import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.adaptive import sam, tent
from ft_jax.core import Outputs, compose, make_step, supervised
from ft_jax.testing.problem import problem
from ft_jax.transfer import norm_tuning

X = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
BATCH = {"x": jnp.asarray(X)}


def loss(params, batch, context):
    """Nothing of a task: a test stream has no labels."""
    return {"task": jnp.float32(1.0)}, context.run(apply, params, batch)


def apply(params, batch, key=None):
    return Outputs(batch["x"] @ params["w"], jnp.eye(3))


def run(method, steps=1, rate=1.0, start=W, inside=loss):
    program = make_step(inside, optax.sgd(rate), method)
    state = program.init({"w": jnp.asarray(start)}, jax.random.key(0))
    step, told = jax.jit(program.step), []
    for _ in range(steps):
        state, metrics = step(state, BATCH)
        told.append(metrics)
    return state, told


def entropies(w=W):
    logits = X.astype(np.float64) @ w
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return p, -(p * np.log(p)).sum(1)


@pytest.mark.parametrize("margin", [None, 0.4, 0.7])
def test_it_descends_the_entropy_of_what_is_sure_enough(margin):
    p, found = entropies()
    kept = found < (margin or 2) * np.log(3)
    assert margin is None or (kept.any() and not kept.all())
    state, told = run(tent(margin, recover=None))
    np.testing.assert_allclose(told[0]["loss"], (found * kept).mean(), rtol=1e-5)
    # dH / d logits = -p (log p + H)
    slope = -p * (np.log(p) + found[:, None]) * kept[:, None] / 10
    np.testing.assert_allclose(state.params["model"]["w"], W - X.T @ slope, rtol=1e-4, atol=1e-5)


def test_a_model_that_has_collapsed_starts_again():
    _, told = run(tent(None, recover=0.3, momentum=0.5), steps=40, rate=3.0)
    assert float(told[-1]["adaptive.tent.recovered"]) >= 1
    falls = [
        step
        for step in range(1, 40)
        if told[step]["adaptive.tent.recovered"] > told[step - 1]["adaptive.tent.recovered"]
    ]
    # The step after a recovery sees the first step's entropy again.
    after = [float(told[step + 1]["adaptive.tent"]) for step in falls if step + 1 < 40]
    np.testing.assert_allclose(after, float(told[0]["adaptive.tent"]), rtol=1e-6)
    assert float(run(tent(None, recover=None), steps=40, rate=3.0)[1][-1]["adaptive.tent"]) < 0.3


def test_by_hand_the_average_is_corrected_for_its_beginning():
    state, told = run(tent(None, recover=0.0, momentum=0.9), steps=3, rate=0.1)
    seen = [float(one["adaptive.tent"]) for one in told]
    expected = 0.1 * sum(0.9 ** (2 - at) * value for at, value in enumerate(seen))
    np.testing.assert_allclose(state.memory["adaptive.tent"]["average"], expected, rtol=1e-5)


def test_norms_alone_adapt_and_sharpness_joins_in():
    tiny = problem()
    program = make_step(supervised(tiny.apply), optax.sgd(0.1), compose(tent(None), sam(0.05), norm_tuning(head=())))
    state = program.init(tiny.params, jax.random.key(0))
    step = jax.jit(program.step)
    first = None
    for _ in range(8):
        state, metrics = step(state, tiny.batch)
        first = metrics["adaptive.tent"] if first is None else first
    assert float(metrics["adaptive.tent"]) < float(first) and "task" not in metrics
    assert all("norm" in jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.params))


def test_what_means_nothing_is_refused():
    for wrong in ({"margin": 0.0}, {"margin": 1.5}, {"recover": -1.0}, {"momentum": 1.0}):
        with pytest.raises(ValueError, match="give"):
            tent(**wrong)
