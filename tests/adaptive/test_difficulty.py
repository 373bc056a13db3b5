import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.adaptive import focal, hard_examples, self_paced
from ft_jax.core import Outputs, make_step, supervised
from ft_jax.testing.problem import problem

X = np.random.default_rng(3).normal(size=(8, 5)).astype(np.float32)
W = np.random.default_rng(4).normal(size=(5, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])
BATCH = {"x": jnp.asarray(X), "labels": jnp.asarray(LABELS)}
TINY = problem()


def apply(params, batch, key=None):
    return Outputs(batch["x"] @ params["w"], jnp.eye(3))


def trained(method, batch=BATCH, network=apply, params=None, steps=1):
    program = make_step(supervised(network), optax.sgd(1.0), method)
    state = program.init({"w": jnp.asarray(W)} if params is None else params, jax.random.key(0))
    step = jax.jit(program.step)
    for _ in range(steps):
        state, metrics = step(state, batch)
    return state.params["model"], metrics


def rows():
    logits = X.astype(np.float64) @ W
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return p, p[np.arange(8), LABELS]


def by_hand(weights):
    """Parameters after a step on the weighed mean of plain cross-entropies."""
    p, _ = rows()
    return W - X.T @ ((p - np.eye(3)[LABELS]) * weights[:, None])


def test_focal_is_the_papers_formula_and_its_gradient():
    p, own = rows()
    alpha, gamma = np.array([0.2, 0.5, 1.0]), 2.0
    params, metrics = trained(focal(gamma, tuple(alpha)))
    factor = alpha[LABELS]
    np.testing.assert_allclose(metrics["task"], np.mean(factor * (1 - own) ** gamma * -np.log(own)), rtol=1e-5)
    # d FL / d logits: the paper's appendix B, softmax in place of a sigmoid.
    slope = factor * (gamma * (1 - own) ** (gamma - 1) * own * np.log(own) - (1 - own) ** gamma)
    expected = W - X.T @ (slope[:, None] * (np.eye(3)[LABELS] - p)) / 8
    np.testing.assert_allclose(params["w"], expected, rtol=1e-4, atol=1e-5)


def test_focal_has_a_finite_gradient_where_an_example_is_certain():
    params, metrics = trained(focal(0.5), params={"w": jnp.asarray(200 * W)})
    assert np.isfinite(metrics["task"]) and np.isfinite(params["w"]).all()


def test_self_paced_trains_on_what_is_below_the_threshold_which_rises():
    _, own = rows()
    losses = -np.log(own)
    most = float(np.sort(losses)[3] + 1e-4)
    params, metrics = trained(self_paced(most))
    np.testing.assert_allclose(metrics["task"], np.where(losses < most, losses, 0).mean(), rtol=1e-5)
    np.testing.assert_allclose(params["w"], by_hand((losses < most) / 8), rtol=1e-4, atol=1e-5)
    program = make_step(supervised(apply), optax.sgd(0.0), self_paced(most, growth=1e3))
    state = program.init({"w": jnp.asarray(W)}, jax.random.key(0))
    state, _ = program.step(state, BATCH)
    np.testing.assert_allclose(program.step(state, BATCH)[1]["task"], losses.mean(), rtol=1e-5)


@pytest.mark.parametrize("keep", [0.25, 0.5, 1.0])
def test_hard_examples_are_the_mean_of_the_largest(keep):
    _, own = rows()
    losses, count = -np.log(own), int(np.ceil(keep * 8))
    hard = losses >= np.sort(losses)[::-1][count - 1]
    params, metrics = trained(hard_examples(apply, keep))
    np.testing.assert_allclose(metrics["task"], losses[hard].mean(), rtol=1e-5)
    np.testing.assert_allclose(params["w"], by_hand(hard / count), rtol=1e-4, atol=1e-5)


def test_examples_of_tokens_are_judged_whole_and_padding_is_none_of_them():
    logs = jax.nn.log_softmax(TINY.apply(TINY.params, TINY.batch, None).logits)
    losses = np.asarray(-jnp.take_along_axis(logs, TINY.batch["labels"][..., None], -1)[..., 0])
    weights = np.array(TINY.batch["weights"])
    weights[5:] = 0  # padding
    means = (losses * weights).sum(1)[:5] / weights.sum(1)[:5]
    hard = np.append(means >= np.sort(means)[::-1][2], [False] * 3)
    expected = (losses * weights)[hard].sum() / weights[hard].sum()
    batch = {**TINY.batch, "weights": jnp.asarray(weights)}
    _, metrics = trained(hard_examples(TINY.apply, 0.5), batch, TINY.apply, TINY.params)
    np.testing.assert_allclose(metrics["task"], expected, rtol=1e-5)


def test_numbers_and_labels_that_mean_nothing_are_refused():
    for wrong in (
        lambda: focal(-1.0),
        lambda: self_paced(0.0),
        lambda: self_paced(1.0, 0.5),
        lambda: hard_examples(apply, 0.0),
    ):
        with pytest.raises(ValueError, match="give"):
            wrong()
    several = {**BATCH, "labels": jnp.zeros((8, 2), jnp.int32)}
    program = make_step(
        lambda params, batch, context: ({"task": 0.0}, context.run(apply, params, batch)), optax.sgd(1.0), focal()
    )
    with pytest.raises(ValueError, match="one label a row"):
        program.step(program.init({"w": jnp.asarray(W)}, jax.random.key(0)), several)
