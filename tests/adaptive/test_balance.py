"""Loss balance against torchjd's recorded aggregations, closed forms and the raw steps."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import adaptive
from ft_jax.adaptive.balance import weights
from ft_jax.adaptive.balance.gradnorm import gradnorm_weights
from ft_jax.core import Outputs, compose, make_step

RECORD = json.loads((Path(__file__).parents[1] / "golden" / "balance.json").read_text())
RULES = {
    "upgrad": weights.upgrad_weights,
    "mgda": weights.mgda_weights,
    "aligned": weights.aligned_weights,
    "imtl": weights.imtl_weights,
    "cagrad": lambda gram: weights.cagrad_weights(gram, 0.5),
    "pcgrad": lambda gram: weights.pcgrad_weights(gram, jax.random.key(0)),
}
CASES = [(label, name) for label, values in RECORD["values"].items() for name in values]


@pytest.mark.parametrize(("label", "name"), CASES)
def test_a_rule_gives_torchjds_direction(label, name):
    jacobian = jnp.array(RECORD["jacobians"][label])
    found = RULES[name](jacobian @ jacobian.T) @ jacobian
    # torchjd regularises the Gram matrix by 1e-4 of its trace.
    np.testing.assert_allclose(found, RECORD["values"][label][name], rtol=2e-3, atol=2e-3)


def pulls(params, batch, context):
    """Two terms whose gradients at the start are 1, 0, 2 and -3, 1, 0.5."""
    w = context.join(params)["model"]["w"]
    jacobian = jnp.array(RECORD["jacobians"]["conflict"])
    one, other = jacobian @ w
    return {"one": one, "other": other}, Outputs(hidden=batch["x"])


@pytest.mark.parametrize("name", ["pcgrad", "cagrad", "mgda", "upgrad", "imtl", "aligned"])
def test_a_step_goes_against_the_rules_direction(name):
    program = make_step(pulls, optax.sgd(0.1), getattr(adaptive, name)())
    state = program.init({"w": jnp.zeros(3)}, jax.random.key(0))
    state, _ = program.step(state, {"x": jnp.ones((2, 1))})
    scale = 1 if name == "pcgrad" else 2
    expected = -0.1 * scale * np.array(RECORD["values"]["conflict"][name])
    np.testing.assert_allclose(state.params["model"]["w"], expected, rtol=2e-3, atol=2e-3)


def test_no_direction_of_upgrad_or_cagrad_with_a_full_radius_raises_a_term():
    for seed in range(20):
        jacobian = jax.random.normal(jax.random.key(seed), (3, 5))
        for rule in (weights.upgrad_weights, lambda gram: weights.cagrad_weights(gram, 1.0)):
            assert jnp.min(jacobian @ (rule(jacobian @ jacobian.T) @ jacobian)) > -1e-3


def test_gradnorm_holds_norms_equal_where_all_learn_at_one_pace():
    norms, found = jnp.array([1.0, 4.0]), jnp.ones(2)
    for _ in range(2000):
        found = gradnorm_weights(found, norms, jnp.ones(2), 0.0, 0.005)
    # Closed form: w₁ · 1 = w₂ · 4 and w₁ + w₂ = 2.
    np.testing.assert_allclose(found, [1.6, 0.4], atol=0.01)


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_gradnorms_weights_descend_the_papers_objective_in_their_logarithm(alpha):
    keys = jax.random.split(jax.random.key(int(10 * alpha)), 3)
    norms, ratios = (jnp.exp(2 * jax.random.normal(key, (4,))) for key in keys[:2])
    before = 4 * jax.nn.softmax(jax.random.normal(keys[2], (4,)))

    def objective(logarithms):
        each = jnp.exp(logarithms) * norms
        target = jax.lax.stop_gradient(each.mean() * (ratios / ratios.mean()) ** alpha)
        return jnp.abs(each - target).sum() / jax.lax.stop_gradient(each.mean())

    moved = jnp.exp(jnp.log(before) - 0.1 * jax.grad(objective)(jnp.log(before)))
    found = gradnorm_weights(before, norms, ratios, alpha, 0.1)
    np.testing.assert_allclose(found, 4 * moved / moved.sum(), rtol=1e-5)


def test_gradnorm_balances_terms_of_very_different_units():
    # Of losses σ² apart, the weights of equal norms are σ² apart: below any step of a fixed size.
    norms, found = jnp.array([1.0, 1e6]), jnp.ones(2)
    for _ in range(2000):
        found = gradnorm_weights(found, norms, jnp.ones(2), 0.0, 0.025)
    np.testing.assert_allclose(found[1] * 1e6, found[0], rtol=0.1)


def test_gradnorm_takes_norms_of_the_layers_it_is_told():
    def loss(params, batch, context):
        own = context.join(params)["model"]
        terms = {"a": jnp.sum(own["shared"] ** 2) + 9 * own["head"] ** 2, "b": 3 * jnp.sum(own["shared"] ** 2)}
        return terms, Outputs(hidden=batch["x"])

    start = {"shared": jnp.ones(2), "head": jnp.ones(())}
    found = {}
    for of in (("*",), ("model/shared",)):
        program = make_step(loss, optax.sgd(0.0), adaptive.gradnorm(("a", "b"), alpha=0.0, of=of))
        state, step = program.init(start, jax.random.key(0)), jax.jit(program.step)
        for _ in range(400):
            state, _ = step(state, {"x": jnp.ones((2, 1))})
        found[of] = jax.tree.leaves(state.opt_state)
    # |∇a| is √(8 + 324) of all and √8 of the shared; |∇b| is √72.
    for of, (a, b) in {("*",): (332**0.5, 72**0.5), ("model/shared",): (8**0.5, 72**0.5)}.items():
        weights = next(leaf for leaf in found[of] if leaf.shape == (2,) and abs(leaf.sum() - 2) < 1e-5)
        np.testing.assert_allclose(weights, [2 * b / (a + b), 2 * a / (a + b)], atol=0.03)
    with pytest.raises(ValueError, match=r"takes norms of 'model/trunk/\*', which fits nothing .*model/shared"):
        make_step(loss, optax.sgd(0.0), adaptive.gradnorm(("a", "b"), of=("model/trunk/*",))).init(
            start, jax.random.key(0)
        )


def test_gradnorm_counts_a_term_from_when_it_begins():
    def loss(params, batch, context):
        w = context.join(params)["model"]["w"]
        late = jnp.where(context.step < 3, 0.0, jnp.sum((w - 2) ** 2))
        return {"task": jnp.sum((w + 1) ** 2), "late": late}, Outputs(hidden=batch["x"])

    program = make_step(loss, optax.sgd(0.01), adaptive.gradnorm(("task", "late"), alpha=1.0))
    state, step = program.init({"w": jnp.zeros(2)}, jax.random.key(0)), jax.jit(program.step)
    for at in range(6):
        state, metrics = step(state, {"x": jnp.ones((2, 1))})
        assert np.isfinite(metrics["loss"]) and np.isfinite(state.params["model"]["w"]).all()
        assert (metrics["late"] > 0) == (at >= 3)
    (first,) = (leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == (2,) and leaf[0] == 2.0)
    assert first[1] > 0


def two_paces(params, batch, context):
    w = context.join(params)["model"]["w"]
    return {"fast": 50.0 * jnp.sum((w[0] - 1) ** 2), "slow": 0.1 * jnp.sum((w[1] + 1) ** 2)}, Outputs(hidden=batch["x"])


@pytest.mark.parametrize("build", [adaptive.famo, lambda terms: adaptive.dwa(terms, period=2), adaptive.gradnorm])
def test_what_falls_slowly_is_helped(build):
    program = make_step(two_paces, optax.sgd(0.005), build(("fast", "slow")))
    state, step = program.init({"w": jnp.zeros(2)}, jax.random.key(0)), jax.jit(program.step)
    plain = make_step(two_paces, optax.sgd(0.005))
    other, plain_step = plain.init({"w": jnp.zeros(2)}, jax.random.key(0)), jax.jit(plain.step)
    for _ in range(30):
        state, _ = step(state, {"x": jnp.ones((2, 1))})
        other, _ = plain_step(other, {"x": jnp.ones((2, 1))})
    assert state.params["model"]["w"][1] < 1.05 * other.params["model"]["w"][1] < 0


def test_two_balances_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"adaptive.mgda and adaptive.pcgrad each combine .* leave one of them out"):
        compose(adaptive.pcgrad(), adaptive.mgda())
