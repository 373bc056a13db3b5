"""OSF: equal to peft's under SGD; what is kept stays through Adam, decay and tasks."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.core import Outputs, compose, jit_step, make_step, materialize, matmul, supervised
from ft_jax.incremental import osf
from ft_jax.transfer import lora, pissa, quantize

GOLDEN = Path(__file__).parents[1] / "golden" / "osf.npz"
LAYERS = ("first", "second")
NAME = "incremental.osf"


def network(params, batch, key=None):
    hidden = jnp.tanh(matmul(params["first"]["kernel"], batch["x"]))
    return Outputs(hidden=matmul(params["second"]["kernel"], hidden), unembedding=jnp.eye(4))


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def params(recorded):
    return {layer: {"kernel": jnp.asarray(recorded[layer])} for layer in LAYERS}


@pytest.fixture(scope="module")
def batch(recorded):
    return {"x": jnp.asarray(recorded["x"]), "labels": jnp.asarray(recorded["labels"])}


def kernels(program, state):
    seen = program.parameters(state)["model"]
    return {layer: np.asarray(materialize(seen[layer]["kernel"])) for layer in LAYERS}


def kept(matrix, count=2):
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    return u[:, :count], s[:count], v[:count]


def test_steps_of_sgd_are_pefts(recorded, params, batch):
    # Two of five and two of four directions stay.
    method = osf(keep=0.5, targets=("*kernel",))
    program = make_step(supervised(network), optax.sgd(0.5), method)
    state, step, losses = program.init(params, jax.random.key(0)), jit_step(program.step), []
    for _ in recorded["losses"]:
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses, recorded["losses"], rtol=1e-5)
    for layer, found in kernels(program, state).items():
        np.testing.assert_allclose(found, recorded[f"{layer}_after"], rtol=1e-4, atol=1e-5)
        assert np.abs(found - recorded[layer]).max() > 0.05


def test_what_is_kept_stays_through_adam_decay_and_the_next_task(params, batch):
    method = osf(keep=0.5, growth=0.25, targets=("*kernel",))
    program = make_step(supervised(network), optax.adamw(0.05, weight_decay=0.2), method)
    state, step = program.init(params, jax.random.key(0)), jit_step(program.step)
    for count in (2, 3):
        before = kernels(program, state)
        for _ in range(20):
            state, _ = step(state, batch)
        for layer, after in kernels(program, state).items():
            assert np.abs(after - before[layer]).max() > 0.01
            most = min(after.shape)
            u, s, v = kept(before[layer], int(count / 4 * most + 1e-4))
            # The directions that stay are singular ones still: what was added is orthogonal on both sides.
            np.testing.assert_allclose(u.T @ after, s[:, None] * v, atol=2e-5)
            np.testing.assert_allclose(after @ v.T, u * s, atol=2e-5)
        held = kernels(program, state)
        state = program.after_task(state, jax.tree.map(lambda x: x[None], batch))
        for layer, anew in kernels(program, state).items():
            np.testing.assert_allclose(anew, held[layer], atol=1e-5)
    assert float(state.hyper[NAME]["keep"]) == 1.0


def test_all_directions_kept_is_nothing_learned(params, batch):
    program = make_step(supervised(network), optax.adamw(0.05), osf(keep=1.0, targets=("*kernel",)))
    state = program.init(params, jax.random.key(0))
    state, _ = jit_step(program.step)(state, batch)
    for layer, found in kernels(program, state).items():
        np.testing.assert_allclose(found, params[layer]["kernel"], atol=1e-5)


def test_an_adapter_stands_over_it_and_it_under_an_adapter(params, batch):
    for methods in itertools.permutations((lora(rank=2, targets=("*kernel",)), osf(targets=("*kernel",)))):
        program = make_step(supervised(network), optax.sgd(0.1), compose(*methods))
        state = program.init(params, jax.random.key(0))
        for layer, found in kernels(program, state).items():
            np.testing.assert_allclose(found, params[layer]["kernel"], atol=1e-5)
        state, metrics = jit_step(program.step)(state, batch)
        assert np.isfinite(metrics["loss"])


def test_what_can_not_be_is_refused():
    with pytest.raises(ValueError, match="keep 1.5"):
        osf(keep=1.5)
    with pytest.raises(ValueError, match="transfer.quantize works on the stored matrix, .*; leave one of them out"):
        compose(osf(), quantize())
    with pytest.raises(ValueError, match=r"transfer.pissa works on the stored matrix.*name incremental.osf outside"):
        compose(pissa(), osf())
    assert compose(osf(), pissa()).names == (NAME, "transfer.pissa")
