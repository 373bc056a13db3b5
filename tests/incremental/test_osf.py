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


def deep(params, batch, key=None):
    """Two square weights and one that is not, the first of which a scan would hold as two layers."""
    x = batch["x"]
    for layer in range(2):
        x = jnp.tanh(matmul(jax.tree.map(lambda leaf, at=layer: leaf[at], params["layers"]["stacked"]["kernel"]), x))
    hidden = matmul(params["out"]["kernel"], jnp.tanh(matmul(params["square"]["kernel"], x)))
    return Outputs(hidden=hidden, unembedding=jnp.eye(4))


def test_each_weight_keeps_by_how_alike_its_inputs_and_outputs_are():
    draw = np.random.default_rng(0)
    near = np.eye(5) + 0.3 * draw.normal(size=(5, 5))
    weights = {"layers": np.stack([near, draw.normal(size=(5, 5))]), "square": near.T, "out": draw.normal(size=(5, 4))}
    params = {name: {"kernel": jnp.asarray(one, jnp.float32)} for name, one in weights.items()}
    params["layers"] = {"stacked": params["layers"]}
    x = draw.normal(size=(3, 6, 5)).astype(np.float32)
    task = {"x": jnp.asarray(x), "labels": jnp.zeros((3, 6), jnp.int32)}
    method = osf(keep=0.6, least=0.1, targets=("*kernel",))
    program = make_step(supervised(deep), optax.sgd(0.5), method)
    state = jax.jit(program.after_task)(program.init(params, jax.random.key(0)), task)

    def cosine(a, b):
        return np.mean(
            [one @ other / np.linalg.norm(one) / np.linalg.norm(other) for one, other in zip(a, b, strict=True)]
        )

    rows, found = x.reshape(-1, 5), {}
    for name, weight in (
        ("stack0", weights["layers"][0]),
        ("stack1", weights["layers"][1]),
        ("square", weights["square"]),
    ):
        found[name] = max(cosine(rows, rows @ weight), 0.0)
        rows = np.tanh(rows @ weight)
    mean = np.mean(list(found.values()))
    slow = {name: 0.1 + one / mean * (0.6 - 0.1) for name, one in found.items()}
    own = {path.split("/")[0]: np.asarray(0.6 + more) for path, more in state.memory[NAME].items()}
    np.testing.assert_allclose(own["layers"], [slow["stack0"], slow["stack1"]], rtol=1e-4)
    np.testing.assert_allclose(own["square"], slow["square"], rtol=1e-4)
    assert own["out"] == np.float32(0.6) and slow["stack1"] < 0.5 < slow["square"]

    # What each keeps stays through the next task's steps, and no more than that.
    before = program.parameters(state)["model"]
    for _ in range(3):
        state, _ = jax.jit(program.step)(state, {"x": jnp.asarray(x[0]), "labels": jnp.array([0, 1, 2, 3, 0, 1])})
    after = program.parameters(state)["model"]
    for name in ("stack0", "stack1", "square"):
        stacked = name != "square"
        old, new = (
            np.asarray(materialize((tree["layers"]["stacked"] if stacked else tree[name])["kernel"]))
            for tree in (before, after)
        )
        old, new = (one[int(name[-1])] if stacked else one for one in (old, new))
        share = slow[name]
        count = min(int(share * 5 + 1e-4), 5)
        u, s, v = kept(old, count)
        np.testing.assert_allclose(u.T @ new, s[:, None] * v, atol=2e-5)
        if count < 5:
            assert np.abs(new - old).max() > 1e-3


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
    with pytest.raises(ValueError, match="least 0.7 and keep 0.5; give least a share from 0 to keep"):
        osf(keep=0.5, least=0.7)
    with pytest.raises(ValueError, match="transfer.quantize works on the stored matrix, .*; leave one of them out"):
        compose(osf(), quantize())
    with pytest.raises(ValueError, match=r"transfer.pissa works on the stored matrix.*name incremental.osf outside"):
        compose(pissa(), osf())
    assert compose(osf(), pissa()).names == (NAME, "transfer.pissa")
