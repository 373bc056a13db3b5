"""Adapters that a network writes are those of each example's task, and its gradient is theirs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import transfer
from ft_jax.core import compose, make_step, merge, optimizer, outputs_of, parameters, supervised
from ft_jax.models import load_adapter, save_adapter, tiny_decoder

MODEL = tiny_decoder(jax.random.key(0), layers=1)
IDS = jax.random.randint(jax.random.key(1), (3, 5), 0, 32)
BATCH = {"input_ids": IDS[:, :-1], "labels": IDS[:, 1:]}
WIDTH = 5
TASKS = jax.random.normal(jax.random.key(2), (3, WIDTH))
NAME = "transfer.hypernetwork"


def start(method, model=MODEL, rate=0.03):
    program = make_step(supervised(model.apply), optimizer(optax.adam, learning_rate=rate), method)
    return program, jax.jit(program.init)(model.params, jax.random.key(3))


def drawn(state):
    """The state with heads that write something."""
    own = dict(state.params[NAME])
    own["b"] = jax.tree.map(lambda x: 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), own["b"])
    return state.replace(params={**state.params, NAME: own})


@pytest.fixture(scope="module")
def written():
    method = transfer.hypernetwork(WIDTH, rank=2, alpha=3.0, hidden=6)
    program, state = start(method)
    return method, program, drawn(state)


def alone(state, method, embedding, params=None):
    """The model's parameters with one task's adapter, made dense."""
    shown = state.remember(NAME, embedding)
    shown = shown if params is None else shown.replace(params=params)
    return merge(parameters(shown, method)["model"])


def test_each_example_meets_the_adapter_of_its_own_task(written):
    method, program, state = written
    predictions = jax.jit(program.evaluate)(state, {**BATCH, "task_embedding": TASKS}).predictions
    expected = jnp.stack([MODEL.apply(alone(state, method, z), BATCH).logits[row] for row, z in enumerate(TASKS)])
    np.testing.assert_allclose(predictions, expected, rtol=1e-4, atol=1e-5)
    others = jnp.stack([MODEL.apply(alone(state, method, z), BATCH).logits[0] for z in TASKS])
    assert float(jnp.abs(others[1:] - others[0]).max()) > 1e-2, "tasks write one adapter"


def test_its_gradient_is_that_of_adapters_run_one_by_one(written):
    method, program, state = written

    def slow(params):
        losses = []
        for row, embedding in enumerate(TASKS):
            logits = MODEL.apply(alone(state, method, embedding, params), BATCH).logits[row]
            losses.append(optax.softmax_cross_entropy_with_integer_labels(logits, BATCH["labels"][row]).mean())
        return jnp.stack(losses).mean()

    def fast(params):
        terms = program.evaluate(state.replace(params=params), {**BATCH, "task_embedding": TASKS}).terms
        return terms["task"]

    ours, theirs = (jax.jit(jax.value_and_grad(one))(state.params) for one in (fast, slow))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), ours, theirs)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(theirs[1])), "a part of it does not learn"


def test_it_starts_at_the_base_and_learns_tasks_apart():
    program, state = start(transfer.hypernetwork(WIDTH, rank=4, hidden=16, also=("*/head/*",)), rate=0.01)
    rows = {name: jnp.concatenate([x[:1]] * 2) for name, x in BATCH.items()}
    # One sentence, to be gone on with by another token in either task.
    rows["labels"] = jnp.stack([jnp.full(4, 3), jnp.full(4, 17)])
    batch = {**rows, "task_embedding": TASKS[:2]}
    np.testing.assert_allclose(
        jax.jit(program.evaluate)(state, batch).predictions, MODEL.apply(MODEL.params, rows).logits, atol=1e-6
    )
    step = jax.jit(program.step)
    for _ in range(40):
        state, metrics = step(state, batch)
    assert float(metrics["loss"]) < 0.3 < np.log(2), "tasks of one input can't be told apart without its adapters"


def test_a_table_of_tasks_is_their_embeddings_and_learns():
    method = transfer.hypernetwork(WIDTH, rank=2, hidden=6, tasks=3)
    program, state = start(method)
    state, task = drawn(state), jnp.array([2, 0, 1])
    table = state.params[NAME]["tasks"]
    evaluate = jax.jit(program.evaluate)
    by_number = evaluate(state, {**BATCH, "task": task}).predictions
    np.testing.assert_allclose(
        by_number, evaluate(state, {**BATCH, "task_embedding": table[task]}).predictions, rtol=1e-5, atol=1e-6
    )
    after, _ = jax.jit(program.step)(state, {**BATCH, "task": jnp.array([0, 1, 0])})
    moved = jnp.abs(after.params[NAME]["tasks"] - table).max(axis=1)
    assert moved[0] > 0 and moved[1] > 0 and moved[2] == 0
    assert np.isnan(evaluate(state, {**BATCH, "task": task.at[1].set(3)}).predictions[1]).all()


def test_an_unseen_tasks_adapter_is_a_file_of_peft_with_equal_outputs(written, tmp_path):
    method, program, state = written
    unseen = jax.random.normal(jax.random.key(9), (WIDTH,))
    params = parameters(state.remember(NAME, unseen), method)["model"]
    loaded = load_adapter(save_adapter(MODEL, params, tmp_path / "unseen"), MODEL)[1]
    predictions = program.evaluate(state, {**BATCH, "task_embedding": jnp.stack([unseen] * 3)}).predictions
    np.testing.assert_allclose(MODEL.apply(loaded, BATCH).logits, predictions, atol=1e-5)
    shown = outputs_of(state.remember(NAME, unseen), method, MODEL.apply, BATCH).logits
    np.testing.assert_allclose(shown, predictions, atol=1e-5)


def test_scanned_layers_and_a_quantised_base_write_the_same():
    deep = tiny_decoder(jax.random.key(0), layers=2)
    method, batch = transfer.hypernetwork(WIDTH, rank=2, hidden=6), {**BATCH, "task_embedding": TASKS}
    program, state = start(method, deep)
    state = drawn(state)
    expected = program.evaluate(state, batch).predictions
    scanned = deep.configure(scan=True)
    other, one = start(method, scanned)
    jax.tree.map(np.testing.assert_array_equal, one.params[NAME]["a"], state.params[NAME]["a"])
    one = one.replace(params={**one.params, NAME: state.params[NAME]})
    np.testing.assert_allclose(other.evaluate(one, batch).predictions, expected, rtol=1e-4, atol=1e-5)
    shown = parameters(one.remember(NAME, TASKS[0]), method)["model"]
    np.testing.assert_allclose(scanned.apply(shown, BATCH).logits[0], expected[0], rtol=1e-4, atol=1e-5)

    packed = compose(method, transfer.quantize("int8", block=16))
    other, one = start(packed, deep)
    one = one.replace(params={**one.params, NAME: state.params[NAME]})
    whole = parameters(one.remember(NAME, TASKS[1]), packed)["model"]
    found = other.evaluate(one, batch).predictions
    np.testing.assert_allclose(found[1], deep.apply(whole, BATCH).logits[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "fields", "said"),
    [
        ({"width": 0}, {}, "has embeddings of width 0; give it at least 1"),
        ({"width": 5, "rank": 9}, {}, "has rank 9, but model/.* is 16 by 8; use a rank of at most 8"),
        ({"width": 5}, {"task_embedding": TASKS[:2]}, r"shape \(2, 5\) for 3 examples and embeddings of width 5"),
        ({"width": 5}, {"task": jnp.arange(3)}, "and has no table; give it tasks=..., or give batch"),
        ({"width": 5, "tasks": 2}, {"task": jnp.arange(2)}, r"shape \(2,\) for 3 examples; give each one number"),
    ],
)
def test_what_it_cannot_use_is_refused_in_one_sentence(options, fields, said):
    with pytest.raises(ValueError, match=said) as error:
        program, state = start(transfer.hypernetwork(**{"rank": 2, **options}))
        program.evaluate(state, {**BATCH, **fields})
    assert "\n" not in str(error.value)
