"""Weights that make members differ, and boosting, against slower obvious versions and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ensemble.small import batch, flat, params, program, trajectory
from sklearn.datasets import load_digits
from sklearn.ensemble import AdaBoostClassifier
from sklearn.tree import DecisionTreeClassifier

from ft_jax.core.members import member
from ft_jax.ensemble import batch_ensemble, lora_experts, members, own_start, samme
from ft_jax.ensemble.diversity.batch_ensemble import RankOne
from ft_jax.ensemble.diversity.lora_experts import Experts
from ft_jax.transfer import lora

TARGETS = ("*up/kernel",)


def test_members_start_apart_and_from_the_same_numbers():
    alike = program(members(3, fusion=None)).init(params(), jax.random.key(0))
    assert np.array_equal(flat(member(alike, 0).params), flat(member(alike, 1).params))
    apart = program(members(3, fusion=None), own_start()).init(params(), jax.random.key(0))
    kernels = apart.params["model"]["up"]["kernel"]
    assert not np.array_equal(kernels[0], kernels[1])
    for kernel in kernels:
        np.testing.assert_array_equal(np.sort(kernel.ravel()), np.sort(params()["up"]["kernel"].ravel()))
    head = program(own_start(("*/head/*",))).init(params(), jax.random.key(0)).params["model"]
    np.testing.assert_array_equal(head["up"]["kernel"], params()["up"]["kernel"])
    assert not np.array_equal(head["head"]["kernel"], params()["head"]["kernel"])


def test_a_batch_ensembles_weight_is_the_shared_one_times_an_outer_product():
    generator = np.random.default_rng(0)
    base, r, s, x, bias = (jnp.asarray(generator.normal(size=shape)) for shape in ((4, 6), 4, 6, (3, 4), 6))
    weight = RankOne(base, r, s, "b")
    np.testing.assert_allclose(weight.matmul(x, bias), (x @ (base * jnp.outer(r, s))) + bias * s, rtol=1e-4)
    np.testing.assert_allclose(x @ weight.materialize() + weight.fold_bias(bias), weight.matmul(x, bias), rtol=1e-4)
    made = program(members(4), batch_ensemble(TARGETS))
    state = trajectory(made, 2)[-1]
    assert state.frozen["model"]["up"]["kernel"].base.shape == (5, 5)
    assert state.params["model"]["up"]["kernel"].r.shape == (4, 5)


@pytest.mark.parametrize("top", [1, 2, 3])
def test_experts_are_mixed_row_by_row(top):
    generator = np.random.default_rng(0)
    base, router, a, b, x = (
        generator.normal(size=shape) for shape in ((4, 6), (4, 3), (3, 4, 2), (3, 2, 6), (2, 5, 4))
    )
    weight = Experts(*map(jnp.asarray, (base, router, a, b, 0.5)), top, "e")
    wanted = np.zeros((2, 5, 6))
    for place in np.ndindex(2, 5):
        row = x[place]
        logits = row @ router
        chosen = np.argsort(-logits)[:top]
        gates = np.exp(logits[chosen]) / np.exp(logits[chosen]).sum()
        wanted[place] = row @ base + 0.5 * sum(g * (row @ a[e] @ b[e]) for g, e in zip(gates, chosen, strict=True))
    np.testing.assert_allclose(weight.matmul(jnp.asarray(x)), wanted, rtol=1e-4, atol=1e-5)


def test_the_router_and_the_experts_learn():
    made = program(lora_experts(3, rank=2, targets=TARGETS))
    states = trajectory(made, 4)
    before, after = (state.params["model"]["up"]["kernel"] for state in (states[0], states[-1]))
    for field in ("router", "a", "b"):
        assert np.abs(getattr(after, field) - getattr(before, field)).max() > 1e-5, field


def test_boosting_is_scikit_learns():
    x, y = load_digits(return_X_y=True)
    x, y = x[:700], y[:700]
    stump = DecisionTreeClassifier(max_depth=2, random_state=0)
    theirs = AdaBoostClassifier(stump, n_estimators=12, learning_rate=0.8, random_state=0).fit(x[:500], y[:500])
    seeds = iter([estimator.random_state for estimator in theirs.estimators_])

    def train(weights):
        tree = DecisionTreeClassifier(max_depth=2, random_state=next(seeds)).fit(
            x[:500], y[:500], sample_weight=weights
        )
        return lambda asked: tree.predict(x[:500] if asked is None else asked)

    ours = samme(train, y[:500], 12, rate=0.8)
    np.testing.assert_allclose(ours.votes, theirs.estimator_weights_, rtol=1e-6)
    np.testing.assert_allclose(ours.errors, theirs.estimator_errors_, rtol=1e-6)
    np.testing.assert_array_equal(ours(x[500:]), theirs.predict(x[500:]))
    np.testing.assert_allclose(ours.decision(x[500:]), theirs.decision_function(x[500:]), atol=1e-6)


def test_members_share_one_base_product():
    """In the lowered step the base's products are over all members' rows, and only the factors' are batched."""
    made = program(members(4), lora(rank=2, targets=TARGETS, forward="two_pass"))
    state = made.init(params(), jax.random.key(0))
    lines = [line for line in jax.jit(made.step).lower(state, batch(1)).as_text().splitlines() if "dot_general" in line]
    base = [line for line in lines if "tensor<5x5xf32>" in line]
    # What all members read alike is multiplied once, and their own rows in one product.
    assert [line.split("(tensor<")[1].split("x5xf32>")[0] for line in base] == ["12"]
    assert not any("batching_dims" in line for line in base)
    assert any("tensor<4x12x2xf32>, tensor<4x2x5xf32>" in line and "batching_dims = [0]" in line for line in lines)
    assert any("tensor<4x12x5xf32>, tensor<5x3xf32>" in line and "batching_dims" not in line for line in lines)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: batch_ensemble(spread=-1), "has spread -1"),
        (lambda: lora_experts(1), "has 1 experts"),
        (lambda: lora_experts(3, top=4), "takes 4"),
        (lambda: trajectory(program(own_start(("*/hed/*",))), 1), "no parameter matches"),
        (lambda: samme(None, np.zeros(4, int), 3), "over 1 classes"),
        (lambda: samme(lambda w: lambda x: np.array([1, 0]), np.array([0, 1]), 3), "no better than chance"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(make, says):
    with pytest.raises(ValueError, match=says):
        make()
