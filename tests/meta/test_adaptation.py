import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core import tiny

from ft_jax.attention import ia3
from ft_jax.core import Outputs, compose, make_step, supervised
from ft_jax.core.params import paths
from ft_jax.meta import anil, episodes, imaml, maml, meta_sgd, reptile
from ft_jax.transfer import bitfit, full, head_only, lora

KEY = jax.random.key(0)
MATRICES = jnp.array([[[1.0, 0.3], [0.3, 2.0]], [[0.5, -0.2], [-0.2, 3.0]], [[2.0, 0.1], [0.1, 0.25]]])
CENTRES = jnp.array([[1.0, -1.0], [0.0, 2.0], [3.0, 1.0]])
START = jnp.array([0.3, -0.7])
RATE = 0.1


def quadratic(params, batch, context):
    """``(w - centre)·matrix·(w - centre) / 2``, the mean over examples."""
    away = params["model"]["w"] - batch["centre"]
    value = 0.5 * jnp.mean(jnp.einsum("ni,nij,nj->n", away, batch["matrix"], away))
    return {"task": value}, Outputs(hidden=batch["centre"])


def tasks():
    support = {"matrix": MATRICES[:, None], "centre": CENTRES[:, None]}
    return {"support": support, "query": {"matrix": 2 * MATRICES[:, None], "centre": CENTRES[:, None] + 0.5}}


def step_of(method, batch=None, loss=quadratic, params=None):
    """What a step of plain SGD at rate 1 takes away, and its metrics."""
    program = make_step(loss, optax.sgd(1.0), method)
    state = program.init({"w": START} if params is None else params, KEY)
    after, metrics = jax.jit(program.step)(state, tasks() if batch is None else batch)
    return jax.tree.map(jnp.subtract, state.params, after.params), metrics, state


def query_gradient(adapted):
    return jnp.einsum("tij,tj->ti", 2 * MATRICES, adapted - (CENTRES + 0.5))


def test_implicit_gradient_is_the_inverse_of_one_plus_the_hessian_over_the_strength():
    strength = 0.7
    method = imaml(0.2, 300, strength=strength, solver_steps=10)
    gradient, metrics, _ = step_of(method)
    eye = jnp.eye(2)
    adapted = jax.vmap(lambda m, c: jnp.linalg.solve(m + strength * eye, m @ c + strength * START))(MATRICES, CENTRES)
    expected = jax.vmap(lambda m, g: jnp.linalg.solve(eye + m / strength, g))(MATRICES, query_gradient(adapted))
    np.testing.assert_allclose(gradient["model"]["w"], expected.mean(0), rtol=1e-4)
    away = adapted - (CENTRES + 0.5)
    np.testing.assert_allclose(metrics["task"], jnp.mean(jnp.einsum("ti,tij,tj->t", away, MATRICES, away)), rtol=1e-4)


def test_one_step_of_conjugate_gradients_is_a_step_along_the_gradient():
    """The first iterate of the algorithm from 0: ``(g·g / g·A·g) g``."""
    strength = 0.7
    gradient, _, _ = step_of(imaml(0.2, 300, strength=strength, solver_steps=1))
    eye = jnp.eye(2)
    adapted = jax.vmap(lambda m, c: jnp.linalg.solve(m + strength * eye, m @ c + strength * START))(MATRICES, CENTRES)
    # The optimizer sees the mean over three tasks, and conjugate gradients scale with the right side.
    first = jax.vmap(lambda m, g: (g @ g) / (g @ (eye + m / strength) @ g) * g)(MATRICES, query_gradient(adapted))
    np.testing.assert_allclose(gradient["model"]["w"], first.mean(0), rtol=1e-4)


def test_learned_rates_have_the_gradient_of_the_closed_form():
    gradient, _, state = step_of(meta_sgd((0.05, 0.3)))
    rates = state.params["meta.meta_sgd"]["model"]["w"]
    assert bool(jnp.all((rates >= 0.05) & (rates <= 0.3))) and rates[0] != rates[1]
    inner = jnp.einsum("tij,tj->ti", MATRICES, START - CENTRES)
    outer = query_gradient(START - rates * inner)
    by_start = outer - jnp.einsum("tij,ti->tj", MATRICES, rates * outer)
    np.testing.assert_allclose(gradient["model"]["w"], by_start.mean(0), rtol=1e-4)
    np.testing.assert_allclose(gradient["meta.meta_sgd"]["model"]["w"], (-inner * outer).mean(0), rtol=1e-4)


def test_reptile_moves_towards_where_the_inner_steps_end():
    gradient, metrics, _ = step_of(reptile(RATE, 4))
    eye = jnp.eye(2)
    ends = jax.vmap(lambda m, c: c + jnp.linalg.matrix_power(eye - RATE * m, 4) @ (START - c))(MATRICES, CENTRES)
    np.testing.assert_allclose(gradient["model"]["w"], jnp.mean(START - ends, axis=0), rtol=1e-4)
    assert metrics["meta.reptile"] == 0 and metrics["task"] > 0


def test_a_minibatch_is_drawn_anew_for_each_inner_step_and_as_large_as_the_support_is_the_whole():
    batch = episodes(tiny.batch())
    loss = supervised(tiny.apply)
    whole, drawn, other = (
        step_of(reptile(0.5, 3, minibatch=size), batch, loss, tiny.params())[0] for size in (None, 2, 1)
    )
    chex.assert_trees_all_close(whole, drawn, atol=1e-6)
    assert optax.global_norm(jax.tree.map(jnp.subtract, whole, other)) > 1e-3
    with pytest.raises(ValueError, match="draws minibatches of 3 from 2 support examples"):
        step_of(reptile(minibatch=3), batch, loss, tiny.params())


def cross_entropy(params, part):
    logits = tiny.apply(params, part, None).logits
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), part["labels"][..., None], -1)[..., 0]
    return -jnp.sum(part["weights"] * chosen) / jnp.sum(part["weights"])


def by_hand(build, adapts, params, batch, steps):
    """The mean over tasks of the query's loss after an unrolled loop of any optimizer on what adapts."""
    values = []
    for task in range(batch["query"]["labels"].shape[0]):
        support, query = (jax.tree.map(lambda x, task=task: x[task], batch[part]) for part in ("support", "query"))
        own = {name: params[name] for name in adapts}
        rest = {name: value for name, value in params.items() if name not in adapts}
        transform = build(learning_rate=0.3)
        state = transform.init(own)
        for _ in range(steps):
            gradients = jax.grad(lambda own: cross_entropy({**rest, **own}, support))(own)  # noqa: B023
            updates, state = transform.update(gradients, state, own)
            own = optax.apply_updates(own, updates)
        values.append(cross_entropy({**rest, **own}, query))
    return sum(values) / len(values)


ADAM = functools.partial(optax.adam, b1=0.0, eps_root=1e-6)


@pytest.mark.parametrize(
    ("method", "build", "adapts", "steps"),
    [
        (maml(0.3, 3, optimizer=ADAM), ADAM, ("table", "layer", "head"), 3),
        (maml(0.3, 3, rematerialise=True), optax.sgd, ("table", "layer", "head"), 3),
        (anil(0.3, 2), optax.sgd, ("head",), 2),
    ],
    ids=["adam", "rematerialised", "head alone"],
)
def test_gradient_through_any_inner_optimizer_equals_the_unrolled_loop(method, build, adapts, steps):
    batch, params = episodes(tiny.batch()), tiny.params()
    assert set(params) >= set(adapts)
    gradient, metrics, _ = step_of(method, batch, supervised(tiny.apply), params)
    value, expected = jax.jit(lambda params: jax.value_and_grad(by_hand, 2)(build, adapts, params, batch, steps))(
        params
    )
    np.testing.assert_allclose(metrics["task"], value, rtol=1e-5)
    chex.assert_trees_all_close(gradient["model"], expected, rtol=2e-3, atol=2e-5)


def test_one_compiled_evaluation_takes_any_number_of_steps():
    program = make_step(quadratic, optax.sgd(1.0), maml(RATE, 1))
    state, evaluate = program.init({"w": START}, KEY), jax.jit(program.evaluate)
    eye = jnp.eye(2)
    for steps in (0, 1, 7):
        told = evaluate(state.with_hyper({"meta.maml.evaluation_steps": steps}), tasks()).terms["task"]
        ends = jax.vmap(lambda m, c: c + jnp.linalg.matrix_power(eye - RATE * m, steps) @ (START - c))(  # noqa: B023
            MATRICES, CENTRES
        )
        away = ends - (CENTRES + 0.5)
        np.testing.assert_allclose(told, jnp.mean(jnp.einsum("ti,tij,tj->t", away, MATRICES, away)), rtol=1e-5)
    assert evaluate._cache_size() == 1


def test_over_adapters_alone_the_start_of_the_adapters_is_learned_and_the_base_stays():
    batch, loss = episodes(tiny.batch()), supervised(tiny.apply)
    method = compose(maml(0.5, 2), lora(2, targets=("*/kernel",)))
    program = make_step(loss, optax.sgd(1.0), method)
    state = program.init(tiny.params(), KEY)
    after, _ = jax.jit(program.step)(state, batch)
    moved = jax.tree.map(jnp.subtract, state.params, after.params)
    assert paths(moved) and all("transfer.lora" in path for path in paths(moved))

    def value(params):
        total = 0.0
        for task in range(2):
            parts = [jax.tree.map(lambda x, task=task: x[task], batch[part]) for part in ("support", "query")]
            adapted = params
            for _ in range(2):
                gradients = jax.grad(lambda p: plain(p, parts[0]))(adapted)  # noqa: B023
                adapted = jax.tree.map(lambda p, g: p - 0.5 * g, adapted, gradients)
            total += plain(adapted, parts[1]) / 2
        return total

    bare = make_step(loss, optax.sgd(1.0), lora(2, targets=("*/kernel",)))

    def plain(params, part):
        return bare.evaluate(bare.init(tiny.params(), KEY).replace(params=params), part).terms["task"]

    chex.assert_trees_all_close(moved, jax.jit(jax.grad(value))(state.params), rtol=2e-3, atol=2e-5)


def test_a_head_that_does_not_learn_is_refused_when_composed():
    frozen, kept = ia3(), lora(2, targets="*/head/kernel")
    for parts in itertools.permutations((anil(), frozen)):
        with pytest.raises(ValueError, match=r"adapts model/head/\*, which attention.ia3 keeps from learning; let the"):
            compose(*parts)
    for learning in (head_only(), full(), lora(2, also=("*/head/*",)), bitfit()):
        compose(anil(), learning), compose(anil(), frozen, learning)
    compose(anil(adapts=("*/transfer.lora/*",)), kept), compose(maml(), frozen)


def test_what_cannot_adapt_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"adapts model/haed/\*, which fits nothing that learns; the nearest"):
        step_of(anil(adapts=("model/haed/*",)), episodes(tiny.batch()), supervised(tiny.apply), tiny.params())
    with pytest.raises(ValueError, match="has optimizer 'adamm', which optax doesn't have; the nearest are adam"):
        maml(optimizer="adamm")
    with pytest.raises(ValueError, match="strength 0"):
        imaml(strength=0.0)
    with pytest.raises(ValueError, match="rates from 0.2 to 0.1"):
        meta_sgd((0.2, 0.1))
