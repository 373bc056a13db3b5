import jax
import numpy as np
import optax
import pytest

from ft_jax import transfer
from ft_jax.core import compose, make_step, quantize, supervised
from ft_jax.core.params import paths
from ft_jax.models import tiny_decoder

MODEL = tiny_decoder(jax.random.key(0), layers=1)
IDS = jax.random.randint(jax.random.key(1), (4, 7), 0, 32)
BATCH = {"input_ids": IDS[:, :-1], "labels": IDS[:, 1:]}


def trained(method):
    program = make_step(supervised(MODEL.apply), optax.sgd(0.1), method)
    state = program.init(MODEL.params, jax.random.key(2))
    return state, jax.jit(program.step)(state, BATCH)[0]


def test_only_the_head_moves():
    before, after = trained(transfer.head_only())
    assert paths(before.params) == ["model/head/kernel"]
    moved = after.params["model"]["head"]["kernel"] - MODEL.params["head"]["kernel"]
    assert np.abs(moved).max() > 1e-3
    for old, new in zip(jax.tree.leaves(before.frozen), jax.tree.leaves(after.frozen), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_step_of_the_head_is_the_full_steps():
    _, alone = trained(transfer.head_only())
    _, full = trained(transfer.full())
    np.testing.assert_allclose(*(state.params["model"]["head"]["kernel"] for state in (alone, full)), rtol=1e-6)


def test_everything_moves_in_full():
    before, after = trained(transfer.full())
    assert paths(before.params) == [f"model/{path}" for path in paths(MODEL.params)]
    for old, new in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True):
        assert np.abs(new - old).max() > 0


def test_asked_for_in_full_and_in_part_is_in_full():
    before, _ = trained(compose(transfer.head_only(), transfer.full()))
    assert len(paths(before.params)) == len(paths(MODEL.params))


def test_quantised_codes_are_refused():
    params = {**MODEL.params, "head": {"kernel": quantize(MODEL.params["head"]["kernel"])}}
    program = make_step(supervised(MODEL.apply), optax.sgd(0.1), transfer.full())
    with pytest.raises(
        ValueError, match="model/head/kernel/codes has type uint8 and can't learn; put an adapter over it"
    ):
        program.init(params, jax.random.key(0))
