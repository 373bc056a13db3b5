import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import adaptive, ensemble, transfer
from ft_jax.core import Method, compose, jit_step, make_step, optimizer, supervised
from ft_jax.core.state import UpdateEvent
from ft_jax.models import tiny_decoder

RANK, GAP, SCALE, RATE = 2, 3, 0.25, 0.05
SHAPES = {"wide": (4, 6), "tall": (7, 3), "square": (5, 5)}


class AuthorsGaLore:
    """The authors' projector and Adam (galore_torch 1.0), transcribed to numpy, for weights as torch stores them."""

    def __init__(self):
        self.basis, self.mean, self.square, self.step = None, 0.0, 0.0, 0

    def update(self, gradient):
        right = gradient.shape[0] >= gradient.shape[1]
        if self.step % GAP == 0:
            u, _, vh = np.linalg.svd(gradient, full_matrices=False)
            basis = vh[:RANK].T if right else u[:, :RANK]
            # The decomposition's own signs differ between libraries.
            basis = basis * np.sign([column[np.abs(column).argmax()] for column in basis.T])
            self.basis = basis.T if right else basis
        low = gradient @ self.basis.T if right else self.basis.T @ gradient
        self.step += 1
        self.mean = 0.9 * self.mean + 0.1 * low
        self.square = 0.999 * self.square + 0.001 * low**2
        size = RATE * np.sqrt(1 - 0.999**self.step) / (1 - 0.9**self.step)
        normal = self.mean / (np.sqrt(self.square) + 1e-12)
        back = normal @ self.basis if right else self.basis @ normal
        return -size * SCALE * back


def happened(hyper, step):
    return UpdateEvent(hyper, {}, step, None, {}, {}, None, None, None)


def test_updates_equal_the_authors_algorithm():
    method = transfer.galore(rank=RANK, gap=GAP, scale=SCALE, targets=("*/kernel",))
    inner = optax.with_extra_args_support(optax.adam(RATE, eps=0.0, eps_root=0.0))
    ignoring = optax.GradientTransformationExtraArgs(inner.init, lambda g, s, p=None, **_: inner.update(g, s, p))
    transform = method.update(ignoring)
    params = {"model": {name: {"kernel": jnp.zeros(shape)} for name, shape in SHAPES.items()}}
    state, references = transform.init(params), {name: AuthorsGaLore() for name in SHAPES}
    hyper = {method.name: {name: jnp.float32(value) for name, value in method.hyper.items()}}
    update = jax.jit(lambda g, s, step: transform.update(g, s, None, event=happened(hyper=hyper, step=step)))
    draw = np.random.default_rng(0)
    for step in range(7):
        gradients = {name: draw.normal(size=shape) for name, shape in SHAPES.items()}
        tree = {"model": {name: {"kernel": jnp.asarray(g, jnp.float32)} for name, g in gradients.items()}}
        updates, state = update(tree, state, jnp.int32(step))
        for name, gradient in gradients.items():
            # Ours are [inputs, outputs], torch's the transposes.
            expected = references[name].update(gradient.T).T
            np.testing.assert_allclose(updates["model"][name]["kernel"], expected, rtol=2e-3, atol=1e-5)


def test_state_is_small_and_the_model_learns():
    model = tiny_decoder(jax.random.key(0), layers=1)
    ids = jax.random.randint(jax.random.key(1), (4, 7), 0, 32)
    batch = {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}
    adam = optimizer(optax.adam, learning_rate=2e-2)
    program = make_step(supervised(model.apply), adam, transfer.galore(rank=2, gap=5))
    state, step = program.init(model.params, jax.random.key(2)), jit_step(program.step)
    moments = optax.tree_utils.tree_get(state.opt_state, "mu")["model"]
    mlp = moments["layers"]["0"]["mlp"]
    assert mlp["up"]["kernel"].shape == (2, 32) and mlp["down"]["kernel"].shape == (32, 2)
    assert moments["head"]["kernel"].shape == model.params["head"]["kernel"].shape
    history = []
    for _ in range(25):
        state, metrics = step(state, batch)
        history.append(float(metrics["loss"]))
    assert history[-1] < 0.6 * history[0] and step.compilations() == 1


def test_scanned_layers_are_projected_one_by_one():
    method = transfer.galore(rank=RANK, gap=1, targets=("*/kernel",))
    sgd = optax.GradientTransformationExtraArgs(lambda p: (), lambda g, s, p=None, **_: (g, s))
    gradients = jax.random.normal(jax.random.key(0), (3, 4, 6))
    hyper = {method.name: {"gap": jnp.float32(1), "scale": jnp.float32(1)}}
    results = []
    for tree in (
        {"model": {"layers": {"stacked": {"kernel": gradients}}}},
        {"model": {"layers": {str(i): {"kernel": gradients[i]} for i in range(3)}}},
    ):
        transform = method.update(sgd)
        updates, _ = transform.update(tree, transform.init(tree), None, event=happened(hyper=hyper, step=jnp.int32(0)))
        results.append(jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(updates)]))
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-6)


def test_under_an_adapter_it_is_the_plain_optimizer():
    transform = transfer.galore(rank=RANK).update(optax.with_extra_args_support(optax.sgd(1.0)))
    params = {"model": {"up": {"kernel": None, "bias": jnp.ones(6)}}}
    updates, _ = transform.update(
        params,
        transform.init(params),
        params,
        event=happened(hyper={"transfer.galore": {"scale": 1.0}}, step=0),
    )
    np.testing.assert_array_equal(updates["model"]["up"]["bias"], -jnp.ones(6))


def test_nothing_to_project_is_refused():
    params = {"up": {"kernel": jnp.zeros((4, 6))}}
    with pytest.raises(ValueError, match="rank 8, but the widest of .* has a side of 4; choose a lower rank"):
        make_step(supervised(None), optax.sgd(0.1), transfer.galore(rank=8)).init(params, jax.random.key(0))
    with pytest.raises(ValueError, match="no weight matches .*down/kernel; the nearest paths are model/up/kernel"):
        make_step(supervised(None), optax.sgd(0.1), transfer.galore(2, targets="*down/kernel")).init(
            params, jax.random.key(0)
        )
    with pytest.raises(ValueError, match="rank 0; give it at least 1"):
        transfer.galore(rank=0)


def test_an_update_inside_asks_for_gradients_in_the_subspace():
    model = tiny_decoder(jax.random.key(0), vocabulary=16, layers=1)
    tokens = jax.random.randint(jax.random.key(1), (4, 6), 0, 16)
    batch = {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}

    def seen(inner):
        def compared(gradients, state, params=None, *, event):
            for again in (event.gradient(), event.gradient(batch), event.gradient(params=params)):
                for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(again), strict=True):
                    found.append(jnp.max(jnp.abs(one - other)))
            downhill = optax.tree.add(params, optax.tree.scale(-1e-2, gradients))
            found.append(jnp.where(event.value_at(downhill) < event.value_at(params), 0.0, 1.0))
            jax.debug.callback(lambda *values: told.extend(values), *found)
            return inner.update(gradients, state, params, event=event)

        found = []
        return optax.GradientTransformationExtraArgs(inner.init, compared)

    told = []
    method = compose(transfer.galore(rank=2), Method("reader", update=seen))
    program = make_step(supervised(model.apply), optimizer(optax.sgd, learning_rate=0.1), method)
    jit_step(program.step)(program.init(model.params, jax.random.key(2)), batch)
    jax.effects_barrier()
    assert len(told) > 10 and max(map(float, told)) < 1e-6


def test_an_average_of_whole_parameters_stands_outside():
    galore, free = transfer.galore(rank=2), adaptive.schedule_free()
    assert compose(free, galore).names == (free.name, galore.name)
    assert compose(galore, ensemble.snapshots(2, period=3))
    with pytest.raises(ValueError, match="name adaptive.schedule_free before transfer.galore"):
        compose(galore, free)
