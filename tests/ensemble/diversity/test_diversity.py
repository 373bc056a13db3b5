"""Examples, features and ranks that make members differ, against slower obvious versions."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ensemble.small import apply, batch, flat, params, program, trajectory

from ft_jax.core import member, outputs_of
from ft_jax.core.adapters import map_operators
from ft_jax.ensemble import bagging, members, random_subspace, ranks
from ft_jax.ensemble.diversity.bagging import row_digests
from ft_jax.transfer import lora

TARGETS = ("*up/kernel",)


def weights_of(method, state, data):
    """The weights that `method` gives a training batch, in a state or in that of a key."""
    if isinstance(state, int):
        state = program(method).init(params(), jax.random.key(state))

    class Training:
        train = True

    return method.prepare(state, data, Training)[1]["weights"]


def test_bootstrap_weights_are_poisson_and_belong_to_the_example():
    data = batch(1, rows=3000)
    drawn = np.asarray(weights_of(bagging(), 3, data))
    shares = np.bincount(drawn.astype(int), minlength=4)[:4] / 3000
    np.testing.assert_allclose(shares, np.exp(-1) / np.array([1, 1, 2, 6]), atol=0.03)
    order = np.random.default_rng(0).permutation(3000)
    shuffled = {name: x[order] for name, x in data.items()}
    np.testing.assert_array_equal(weights_of(bagging(), 3, shuffled), drawn[order])
    assert np.mean(np.asarray(weights_of(bagging(), 4, data)) != drawn) > 0.4
    half = np.asarray(weights_of(bagging("subsample", share=0.3), 3, data))
    assert set(half.tolist()) == {0.0, 1.0} and abs(half.mean() - 0.3) < 0.04


def test_an_example_has_the_same_digest_however_it_is_padded():
    tokens = jax.random.randint(jax.random.key(0), (4, 6), 1, 50)
    mask = (jnp.arange(6) < jnp.array([3, 6, 4, 5])[:, None]).astype(jnp.int32)
    wide = {
        "input_ids": jnp.pad(tokens, ((0, 0), (0, 3)), constant_values=7),
        "attention_mask": jnp.pad(mask, ((0, 0), (0, 3))),
    }
    plain = row_digests({"input_ids": tokens, "attention_mask": mask})
    np.testing.assert_array_equal(row_digests(wide), plain)
    assert len(set(plain.tolist())) == 4
    assert len(set(row_digests(batch(1, rows=5000)).tolist())) == 5000


def test_a_bagged_member_is_a_run_on_its_weighted_examples():
    made = program(members(3, fusion=None), bagging())
    state, step = made.init(params(), jax.random.key(3)), jax.jit(made.step)
    for index in range(3):
        state, _ = step(state, batch(index))
    for index, key in enumerate(jax.random.split(jax.random.key(3), 3)):
        bag, plain = program(bagging()), program()
        own, alone = bag.init(params(), key), plain.init(params(), key)
        for seen in range(3):
            drawn = weights_of(bagging(), own, batch(seen))
            alone, _ = plain.step(alone, {**batch(seen), "weights": drawn})
        np.testing.assert_allclose(flat(member(state, index).params), flat(alone.params), rtol=1e-5, atol=1e-6)


def test_hidden_features_have_no_influence_and_no_gradient():
    method = random_subspace(0.4)
    made = program(method)
    state = trajectory(made, 1)[0]
    moved = np.abs(np.asarray(state.params["model"]["head"]["kernel"] - params()["head"]["kernel"])).max(axis=1)
    assert np.sum(moved > 0) == 2
    seen = random_subspace(0.4, readers=("*up/kernel",))
    made = program(seen)
    state = made.init(params(), jax.random.key(3))
    slope = jax.grad(lambda x: outputs_of(state, seen, apply, {**batch(1), "x": x}).logits.sum())(batch(1)["x"])
    assert np.sum(np.abs(slope).max(axis=0) > 0) == 2


def test_members_of_different_ranks_are_loras_of_their_ranks():
    made = program(ranks((1, 3)), members(2, fusion=None), lora(rank=3, alpha=4.0, targets=TARGETS))
    start = made.init(params(), jax.random.key(3))
    step, state = jax.jit(made.step), start
    for index in range(3):
        state, _ = step(state, batch(index))
    for place, rank in enumerate((1, 3)):
        plain = program(lora(rank=rank, alpha=4.0, targets=TARGETS))
        alone = plain.init(params(), jax.random.split(jax.random.key(3), 2)[place])
        first = start.params["model"]["up"]["kernel"].a[place][:, :rank]
        alone = alone.replace(params=map_operators(partial(replace, a=first), alone.params))
        for index in range(3):
            alone, _ = plain.step(alone, batch(index))
        found = state.params["model"]["up"]["kernel"]
        np.testing.assert_allclose(found.b[place][:rank], alone.params["model"]["up"]["kernel"].b, rtol=1e-4, atol=1e-6)
        assert not np.any(found.b[place][rank:])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: bagging("bootstrap"), "can't sample by 'bootstrap'"),
        (lambda: bagging("subsample", share=1.5), "has share 1.5"),
        (lambda: random_subspace(0.0), "has share 0.0"),
        (lambda: ranks(()), r"got ranks \(\)"),
        (lambda: ranks((2, 0)), r"got ranks \(2, 0\)"),
        (lambda: trajectory(program(ranks((1, 2, 3)), members(2), lora(2, targets=TARGETS)), 1), "3 ranks for 2"),
        (lambda: trajectory(program(random_subspace(0.5, ("*image*",))), 1), "image"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(make, says):
    with pytest.raises(ValueError, match=says):
        make()
