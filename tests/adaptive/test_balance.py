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
        found = gradnorm_weights(found, norms, jnp.ones(2), 0.0, 0.001)
    # Closed form: w₁ · 1 = w₂ · 4 and w₁ + w₂ = 2.
    np.testing.assert_allclose(found, [1.6, 0.4], atol=0.01)


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
