import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core import tiny

from ft_jax import transfer
from ft_jax.core import compose, make_step, supervised
from ft_jax.core.members import member
from ft_jax.ensemble import FUSIONS, mean, members, product, vote

LOGITS = jax.random.normal(jax.random.key(0), (5, 4, 3))


def test_soft_voting_is_the_mean_probability():
    np.testing.assert_allclose(jnp.exp(mean(LOGITS)), jax.nn.softmax(LOGITS).mean(0), rtol=1e-5)


def test_the_product_is_the_normalised_geometric_mean():
    expected = np.prod(np.asarray(jax.nn.softmax(LOGITS), np.float64), axis=0) ** (1 / 5)
    np.testing.assert_allclose(jnp.exp(product(LOGITS)), expected / expected.sum(-1, keepdims=True), rtol=1e-5)


def test_hard_voting_takes_the_class_with_most_first_choices():
    probabilities = jnp.array([[0.9, 0.1, 0.0], [0.4, 0.5, 0.1], [0.4, 0.5, 0.1]])
    logits = jnp.log(probabilities + 1e-9)[:, None]
    assert int(vote(logits).argmax()) == 1 and int(mean(logits).argmax()) == 0


def test_a_tied_vote_goes_to_the_likelier_class():
    logits = jnp.log(jnp.array([[0.9, 0.1], [0.45, 0.55]]))[:, None]
    assert int(vote(logits).argmax()) == 0
    np.testing.assert_allclose(jnp.exp(vote(logits)).sum(), 1.0, rtol=1e-5)


@pytest.mark.parametrize("fusion", [*FUSIONS, None])
def test_evaluation_gives_the_fused_predictions_of_the_members(fusion):
    adapter = transfer.lora(rank=2, targets=("*layer/kernel",))
    program = make_step(supervised(tiny.apply), optax.sgd(0.5), compose(members(3, fusion), adapter))
    plain = make_step(supervised(tiny.apply), optax.sgd(0.5), adapter)
    state, step, batch = program.init(tiny.params(), jax.random.key(0)), jax.jit(program.step), tiny.batch()
    for _ in range(3):
        state, _ = step(state, batch)
    _, fused, _ = program.evaluate(state, batch)
    apart = jnp.stack([plain.evaluate(member(state, index), batch)[1] for index in range(3)])
    assert float(jnp.abs(apart[0] - apart[1]).max()) > 1e-4
    np.testing.assert_allclose(fused, apart if fusion is None else FUSIONS[fusion](apart), atol=1e-5)
    assert program.trials == ((3,) if fusion is None else ())


def test_wrong_members_are_refused():
    with pytest.raises(ValueError, match="has 0 members"):
        members(0)
    with pytest.raises(ValueError, match="can't fuse by 'median'"):
        members(2, "median")
