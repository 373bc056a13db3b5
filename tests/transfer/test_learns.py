"""LP-FT, gradual unfreezing, discriminative rates, BitFit, norm tuning and L2-SP."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import transfer
from ft_jax.core import compose, jit_step, make_step, optimizer, supervised
from ft_jax.core.params import count, matches, paths
from ft_jax.models import tiny_decoder, tiny_encoder, with_classifier
from ft_jax.transfer.depth import depths

MODEL = with_classifier(tiny_encoder(jax.random.key(0)), 3, jax.random.key(1))
BATCH = {"input_ids": jax.random.randint(jax.random.key(2), (4, 5), 0, 32), "labels": jnp.array([0, 2, 1, 0])}


def program_of(*methods, rate=0.1, build=optax.sgd):
    return make_step(supervised(MODEL.apply), optimizer(build, learning_rate=rate), compose(*methods))


def movements(program, steps=4):
    """Of each step, the largest movement of every leaf of the model by path."""
    state, step, found = program.init(MODEL.params, jax.random.key(3)), jit_step(program.step), []
    for _ in range(steps):
        before = jax.tree.map(np.asarray, state.params["model"])
        state, _ = step(state, BATCH)
        moved = jax.tree.map(lambda old, new: float(np.abs(new - old).max()), before, state.params["model"])
        found.append(dict(zip(paths(moved), jax.tree.leaves(moved), strict=True)))
    assert step.compilations() == 1
    return found


def moving(found):
    return [{path for path, size in step.items() if size > 0} for step in found]


def test_probing_moves_the_head_alone_then_everything_at_its_rate():
    steps = moving(movements(program_of(transfer.lp_ft(steps=2)), 3))
    heads = {path for path in paths(MODEL.params) if path.startswith("head/")}
    assert steps[0] == steps[1] == heads
    assert steps[2] == set(paths(MODEL.params))

    plain = movements(program_of(), 1)[0]
    probed = movements(program_of(transfer.lp_ft(steps=1, probe_rate=3.0)), 1)[0]
    tuned = movements(program_of(transfer.lp_ft(steps=0, tuning_rate=0.5)), 1)[0]
    for path in heads:
        np.testing.assert_allclose(probed[path], 3.0 * plain[path], rtol=1e-4)
    for path in plain:
        np.testing.assert_allclose(tuned[path], 0.5 * plain[path], rtol=1e-3, atol=1e-7)


def test_the_end_of_probing_can_be_moved_while_training():
    program = program_of(transfer.lp_ft(steps=1000))
    state, step = program.init(MODEL.params, jax.random.key(3)), jit_step(program.step)
    state, _ = step(state, BATCH)
    state, _ = step(state.with_hyper({"transfer.lp_ft.steps": 0}), BATCH)
    kernel = state.params["model"]["layers"]["0"]["mlp"]["up"]["kernel"]
    assert np.abs(kernel - MODEL.params["layers"]["0"]["mlp"]["up"]["kernel"]).max() > 1e-5
    assert step.compilations() == 1


def test_layers_thaw_from_the_head_down():
    steps = moving(movements(program_of(transfer.gradual_unfreezing(every=1)), 4))
    groups = [("head/*",), ("layers/1/*",), ("layers/0/*",), ("embeddings/*",)]
    thawed = ()
    for group, step in zip(groups, steps, strict=True):
        thawed += group
        assert step == {path for path in paths(MODEL.params) if matches(path, thawed)}


def test_rates_fall_by_the_ratio_from_layer_to_layer():
    plain, ours = (movements(program_of(*methods), 1)[0] for methods in ((), (transfer.discriminative(ratio=2.0),)))
    for path, size in plain.items():
        below = 0 if path.startswith("head") else 3 if path.startswith("embeddings") else 2 - int(path.split("/")[1])
        np.testing.assert_allclose(ours[path], size / 2.0**below, rtol=1e-3, atol=1e-7)


def test_depths_of_scanned_layers_and_of_several_stacks():
    leaf = jnp.zeros((3, 2, 2))
    tree = {
        "model": {
            "layers": {"stacked": {"kernel": leaf}},
            "text": {"layers": {"0": leaf}, "embeddings": {"tokens": leaf}},
            "head": leaf,
        },
        "other": {"layers": {"0": leaf}},
    }
    found = depths(tree)
    assert found["model"]["layers"]["stacked"]["kernel"].shape == (3, 1, 1)
    assert found["model"]["layers"]["stacked"]["kernel"].ravel().tolist() == [3, 2, 1]
    assert found["model"]["text"] == {"layers": {"0": 1}, "embeddings": {"tokens": 2}}
    assert found["model"]["head"] == found["other"]["layers"]["0"] == 0


def test_adapters_thaw_with_their_layer():
    method = compose(transfer.gradual_unfreezing(every=1), transfer.lora(rank=2, also=("*/head/*",)))
    steps = moving(movements(program_of(method), 3))
    assert all(path.startswith("head") for path in steps[0])
    assert any("layers/1" in path for path in steps[1]) and not any("layers/0" in path for path in steps[1])
    assert any("layers/0" in path for path in steps[2])


@pytest.mark.parametrize(
    ("method", "endings", "share"),
    [
        (transfer.bitfit(), ("/bias", "head/kernel"), 0.2),
        (transfer.norm_tuning(), ("norm/scale", "norm/bias", "head/kernel", "head/bias"), 0.2),
    ],
    ids=["bitfit", "norm_tuning"],
)
def test_what_learns_is_what_the_paper_says(method, endings, share):
    program = program_of(method)
    learning = paths(program.init(MODEL.params, jax.random.key(3)).params["model"])
    assert set(learning) == {path for path in paths(MODEL.params) if path.endswith(endings)}
    assert moving(movements(program, 1)) == [set(learning)]
    assert count(program.init(MODEL.params, jax.random.key(3)).params) < share * MODEL.parameters


def test_what_is_not_there_is_refused():
    decoder = tiny_decoder(jax.random.key(0), layers=1)
    with pytest.raises(ValueError, match=r"transfer.bitfit: no parameter matches \*/bias; the nearest paths are"):
        make_step(supervised(decoder.apply), optax.sgd(0.1), transfer.bitfit()).init(decoder.params, jax.random.key(0))
    with pytest.raises(ValueError, match=r"transfer.norm_tuning: no parameter matches \*batchnorm/scale; the nearest"):
        program_of(transfer.norm_tuning(norms=("*batchnorm/scale",))).init(MODEL.params, jax.random.key(0))
    with pytest.raises(ValueError, match="probes for -1 steps; give it at least 0"):
        transfer.lp_ft(steps=-1)
    with pytest.raises(ValueError, match="ratio 0; give it a ratio above 0"):
        transfer.discriminative(ratio=0)


def test_the_distance_from_the_start_is_penalised_in_closed_form():
    alpha, beta = 0.3, 0.05
    program = program_of(transfer.l2_sp(alpha=alpha, beta=beta), rate=0.5)
    state, step = program.init(MODEL.params, jax.random.key(3)), jax.jit(program.step)
    first = np.sum(np.square(np.asarray(MODEL.params["head"]["kernel"], np.float64)))
    _, metrics = step(state, BATCH)
    np.testing.assert_allclose(metrics["transfer.l2_sp"], beta / 2 * first, rtol=1e-5)
    for _ in range(3):
        state, _ = step(state, BATCH)
    _, metrics = step(state, BATCH)
    expected = 0.0
    for path, new, old in zip(
        paths(MODEL.params), *(jax.tree.leaves(tree) for tree in (state.params["model"], MODEL.params)), strict=True
    ):
        new, old = np.asarray(new, np.float64), np.asarray(old, np.float64)
        in_head = path.startswith("head/")
        expected += beta / 2 * np.sum(new**2) if in_head else alpha / 2 * np.sum((new - old) ** 2)
    np.testing.assert_allclose(metrics["transfer.l2_sp"], expected, rtol=1e-4)
    assert far(5.0) < 0.7 * far(0.0)


def far(alpha):
    """How far the backbone is from the start after some steps."""
    program = program_of(transfer.l2_sp(alpha=alpha, beta=0.0))
    state, step = program.init(MODEL.params, jax.random.key(3)), jax.jit(program.step)
    for _ in range(5):
        state, _ = step(state, BATCH)
    gaps = jax.tree.map(lambda new, old: jnp.sum(jnp.square(new - old)), state.params["model"], MODEL.params)
    return float(sum(jax.tree.leaves(gaps["layers"])))
