import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import transfer
from ft_jax.core import compose, jit_step, make_step, optimizer, supervised, warmup_then_decay
from ft_jax.core.params import map_with_path
from ft_jax.models import tiny_decoder

MODEL = tiny_decoder(jax.random.key(0), layers=1)
IDS = jax.random.randint(jax.random.key(1), (4, 7), 0, 32)
BATCH = {"input_ids": IDS[:, :-1], "labels": IDS[:, 1:]}
LORA = transfer.lora(rank=2, also=("*/head/*",))
SCHEDULE = warmup_then_decay(10, 0.3)


def run(program, steps=6):
    state, step = program.init(MODEL.params, jax.random.key(2)), jit_step(program.step)
    for _ in range(steps):
        state, _ = step(state, BATCH)
    return state, step


def test_updates_equal_optax_with_a_rate_per_group():
    ratio, rate, decay = 8.0, 5e-3, 0.1
    adamw = optimizer(optax.adamw, schedule=SCHEDULE, learning_rate=rate, weight_decay=decay)
    ours, _ = run(make_step(supervised(MODEL.apply), adamw, compose(transfer.lora_plus(ratio=ratio), LORA)))

    def group(factor):
        return optax.adamw(lambda step: factor * rate * SCHEDULE(step), weight_decay=decay)

    grouped = optax.partition(
        {"second": group(ratio), "rest": group(1.0)},
        lambda params: map_with_path(lambda path, leaf: "second" if path.endswith("/b") else "rest", params),
    )
    theirs, _ = run(make_step(supervised(MODEL.apply), grouped, LORA))
    for a, b in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    plain, _ = run(make_step(supervised(MODEL.apply), adamw, LORA))
    second = [state.params["model"]["layers"]["0"]["mlp"]["up"]["kernel"].b for state in (ours, plain)]
    assert np.linalg.norm(second[0]) > 3 * np.linalg.norm(second[1])


def test_the_ratio_is_data_and_compiles_nothing():
    program = make_step(
        supervised(MODEL.apply), optimizer(optax.sgd, learning_rate=0.1), compose(transfer.lora_plus(), LORA)
    )
    state, step = program.init(MODEL.params, jax.random.key(2)), jit_step(program.step)
    for ratio in (1.0, 4.0):
        before = np.asarray(state.params["model"]["layers"]["0"]["mlp"]["up"]["kernel"].b)
        gradient = jax.grad(task)(state.params, state)["model"]["layers"]["0"]["mlp"]["up"]["kernel"].b
        state, _ = step(state.with_hyper({"transfer.lora_plus.ratio": ratio}), BATCH)
        after = state.params["model"]["layers"]["0"]["mlp"]["up"]["kernel"].b
        np.testing.assert_allclose(after - before, -0.1 * ratio * gradient, rtol=1e-4, atol=1e-7)
    assert step.compilations() == 1


def task(learned, state):
    from ft_jax.core import cross_entropy, parameters

    return cross_entropy(MODEL.apply(parameters(state.replace(params=learned), LORA)["model"], BATCH), BATCH["labels"])


def test_a_leaf_called_b_that_is_no_factor_keeps_its_rate():
    def apply(params, batch, key):
        from ft_jax.core import Outputs, matmul

        return Outputs(hidden=matmul(params["dense"]["w"], batch["x"], params["dense"]["b"]), unembedding=jnp.eye(6))

    params = {"dense": {"w": jnp.ones((4, 6)), "b": jnp.zeros(6)}}
    batch = {"x": jax.random.normal(jax.random.key(0), (5, 4)), "labels": jnp.arange(5)}
    adapter = transfer.lora(rank=2, targets="*/w", also=("*dense/b",))
    trained = []
    for method in (adapter, compose(transfer.lora_plus(), adapter)):
        program = make_step(supervised(apply), optax.sgd(0.1), method)
        state, _ = jax.jit(program.step)(program.init(params, jax.random.key(1)), batch)
        trained.append(state.params["model"]["dense"])
    np.testing.assert_array_equal(trained[0]["b"], trained[1]["b"])
    np.testing.assert_allclose(16 * trained[0]["w"].b, trained[1]["w"].b, rtol=1e-6)


def test_without_factors_it_is_refused_when_training_starts():
    program = make_step(supervised(MODEL.apply), optax.sgd(0.1), transfer.lora_plus())
    with pytest.raises(
        ValueError, match=r"transfer.lora_plus found no low-rank factors .* compose it with transfer.lora"
    ):
        program.init(MODEL.params, jax.random.key(0))
