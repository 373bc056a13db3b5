"""The teacher that is shown more, against one that reads each text by itself; and SDFT as a composition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.core import compose, make_step, optimizer, supervised
from ft_jax.distillation import on_policy, privileged
from ft_jax.models import tiny_decoder

MODEL = tiny_decoder(jax.random.key(0), vocabulary=16, width=8, layers=1)
TIME = 7


def batch():
    """Prompts of 1, 3 and 2 tokens, answers of 6, 2 and 3, and demonstrations of 4, 2 and 3, padded on the right."""
    ids = jax.random.randint(jax.random.key(1), (3, TIME), 2, 16)
    starts, ends = np.array([0, 2, 1]), np.array([6, 4, 4])
    place = np.arange(TIME)
    counts = (place >= starts[:, None]) & (place < ends[:, None])
    shown = jax.random.randint(jax.random.key(2), (3, 4), 2, 16)
    return (
        {
            "input_ids": ids,
            "labels": jnp.where(counts, jnp.roll(ids, -1, axis=1), -1),
            "attention_mask": jnp.asarray(place <= ends[:, None], jnp.int32),
            "weights": jnp.asarray(counts, jnp.float32),
            "privileged": {
                "input_ids": shown,
                "attention_mask": jnp.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]),
            },
        },
        starts,
        ends,
    )


def program_of(method, rate=0.0):
    return make_step(supervised(MODEL.apply), optimizer(optax.sgd, learning_rate=rate), method)


def by_hand(given, starts, ends, student, teacher, direction, temperature):
    """The mean over all answers' tokens, each text read by itself."""
    rows = []
    for row in range(3):
        ids, shown = given["input_ids"][row], given["privileged"]
        demonstration = shown["input_ids"][row][: int(shown["attention_mask"][row].sum())]
        answer = ids[starts[row] + 1 : ends[row] + 1]
        own = MODEL.apply(student, {"input_ids": ids[None, : ends[row] + 1]}).logits[0, starts[row] : ends[row]]
        seen = jnp.concatenate([demonstration, answer])[None]
        theirs = MODEL.apply(teacher, {"input_ids": seen}).logits[0, len(demonstration) - 1 : -1]
        log_q, log_p = (jax.nn.log_softmax(x / temperature) for x in (own, theirs))
        one, other = (log_q, log_p) if direction == "reverse" else (log_p, log_q)
        rows += list(temperature**2 * (jnp.exp(one) * (one - other)).sum(-1))
    return float(np.mean(rows))


@pytest.mark.parametrize(("direction", "temperature"), [("reverse", 1.0), ("forward", 1.0), ("reverse", 2.0)])
def test_the_teacher_reads_the_answer_after_what_it_is_shown(direction, temperature):
    given, starts, ends = batch()
    program = program_of(privileged(MODEL.apply, 3.0, direction=direction, temperature=temperature))
    state = program.init(MODEL.params, jax.random.key(0))
    moved = jax.tree.map(lambda leaf: 1.2 * leaf, state.params)
    _, metrics = jax.jit(program.step)(state.replace(params=moved), given)
    wanted = by_hand(given, starts, ends, moved["model"], MODEL.params, direction, temperature)
    np.testing.assert_allclose(metrics["loss"], 3.0 * wanted, rtol=1e-4)
    assert "task" not in metrics


def test_the_teacher_is_the_models_own_average():
    given, *_ = batch()
    program = program_of(privileged(MODEL.apply, decay=0.75), rate=0.5)
    state = program.init(MODEL.params, jax.random.key(0))
    after, _ = jax.jit(program.step)(state, given)
    average = jax.tree.map(lambda a, p: 0.75 * a + 0.25 * p, state.params, after.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.memory["distillation.privileged"], average
    )
    fixed = program_of(privileged(MODEL.apply, decay=1.0), rate=0.5)
    kept, _ = jax.jit(fixed.step)(fixed.init(MODEL.params, jax.random.key(0)), given)
    jax.tree.map(np.testing.assert_array_equal, kept.memory["distillation.privileged"], state.params)


def test_self_distillation_from_demonstrations_learns_what_it_was_shown():
    """SDFT: without the demonstration the student comes to begin its answers as it does with one."""
    given, *_ = batch()
    whole = compose(on_policy(MODEL.apply, share=1.0, max_new_tokens=1), privileged(MODEL.apply, decay=1.0, weight=1.0))
    program = make_step(supervised(MODEL.apply), optimizer(optax.adam, learning_rate=0.02), whole)

    @jax.jit
    def run(state):
        def one(state, _):
            state, metrics = program.step(state, given)
            return state, metrics["distillation.privileged"]

        return jax.lax.scan(one, state, None, length=150)

    start = program.init(jax.tree.map(lambda leaf: 2.0 * leaf, MODEL.params), jax.random.key(0))
    _, gaps = run(start)
    assert float(gaps[-20:].mean()) < 0.1 * float(gaps[0])


def test_what_cannot_be_is_refused():
    given, *_ = batch()
    for wrong in ({"direction": "sideways"}, {"decay": 1.5}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            privileged(MODEL.apply, **wrong)
    program = program_of(privileged(MODEL.apply))
    state = program.init(MODEL.params, jax.random.key(0))
    without = {name: x for name, x in given.items() if name != "privileged"}
    with pytest.raises(KeyError, match="reads 'privileged', what the teacher is shown"):
        program.step(state, without)
    assert np.isfinite(program.evaluate(state, without).predictions).all()
