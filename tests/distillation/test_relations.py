"""Relations of queries, keys and values against numpy, on models of unlike width, depth and heads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.core import make_step, supervised
from ft_jax.core.losses import forward
from ft_jax.distillation import relations
from ft_jax.models import stack_layers, tiny_decoder, tiny_encoder

STUDENT = tiny_decoder(jax.random.key(0), vocabulary=16, width=8, layers=2)
TEACHER = tiny_decoder(jax.random.key(1), vocabulary=16, width=16, layers=3)


def batch():
    ids = jax.random.randint(jax.random.key(2), (3, 5), 0, 16)
    real = jnp.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    return {"input_ids": ids, "attention_mask": real, "labels": jnp.where(real > 0, ids, -1)}


def by_hand(states, kinds, heads, rows):
    """The paper's loss of one example, a relation head and a token at a time."""
    own, wanted = states
    total = 0.0
    for kind in kinds:
        gaps = []
        for head in range(heads):
            logs = []
            for vectors in (wanted[kind], own[kind]):
                width = vectors.shape[-1] // heads
                cut = np.asarray(vectors, np.float64)[:rows, head * width : (head + 1) * width]
                scores = cut @ cut.T / np.sqrt(width)
                logs.append(scores - np.log(np.exp(scores).sum(-1, keepdims=True)))
            gaps += [(np.exp(p) * (p - q)).sum() for p, q in zip(*logs, strict=True)]
        total += np.mean(gaps)
    return total


def collected(model, number, row):
    outputs = model.apply.collecting(("projections",))(model.params, batch())
    whole = {kind: outputs.states[f"{kind}/{number}"][row] for kind in ("query", "key", "value")}
    return {kind: x.reshape(x.shape[0], -1) for kind, x in whole.items()}


@pytest.mark.parametrize("kinds", [("query", "key", "value"), ("value",)])
def test_the_term_is_the_papers(kinds):
    method = relations(TEACHER.apply, TEACHER.params, 2.0, heads=4, layers={1: -2}, kinds=kinds)
    program = make_step(forward(STUDENT.apply), optax.sgd(0.1), method)
    given = {name: x for name, x in batch().items() if name != "labels"}
    _, metrics = jax.jit(program.step)(program.init(STUDENT.params, jax.random.key(0)), given)
    real = [5, 3, 2]
    wanted = [
        by_hand((collected(STUDENT, 1, row), collected(TEACHER, 1, row)), kinds, 4, real[row]) for row in range(3)
    ]
    np.testing.assert_allclose(metrics["distillation.relations"], 2.0 * np.mean(wanted), rtol=1e-5)


def test_a_student_takes_over_the_relations_of_a_wider_teacher():
    method = relations(TEACHER.apply, TEACHER.params, heads=4)
    program = make_step(forward(STUDENT.apply), optax.adam(0.01), method)
    given = {name: x for name, x in batch().items() if name != "labels"}
    state, step, history = program.init(STUDENT.params, jax.random.key(0)), jax.jit(program.step), []
    for _ in range(60):
        state, metrics = step(state, given)
        history.append(float(metrics["distillation.relations"]))
    assert history[-1] < 0.3 * history[0]
    assert jax.tree.leaves(state.params.get("distillation.relations", {})) == []


def test_encoders_and_scanned_layers_give_their_projections():
    encoder = tiny_encoder(jax.random.key(0), vocabulary=16)
    states = encoder.apply.collecting(("projections", "attention"))(encoder.params, batch()).states
    assert {name.split("/")[0] for name in states} == {"query", "key", "value", "attention"}
    scanned = dataclasses.replace(STUDENT.apply, config=dataclasses.replace(STUDENT.config, scan=True))
    plain = STUDENT.apply.collecting(("projections",))(STUDENT.params, batch()).states
    stacked = scanned.collecting(("projections",))(stack_layers(STUDENT.params), batch()).states
    assert set(plain) == set(stacked)
    for name, value in plain.items():
        np.testing.assert_allclose(value, stacked[name], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ("values",)}, "kinds .*'values'.*; give some of 'query', 'key', 'value'"),
        ({"heads": 0}, "heads=0"),
        ({"heads": 3}, "cuts the student's 8 numbers a token into 3 heads; give a divisor"),
        (
            {"heads": 4, "layers": (0,), "teacher_layers": (7,)},
            "the teacher has no layer 7; it has layers/0 to layers/2, of which layers/2 is the nearest",
        ),
    ],
)
def test_what_cannot_be_related_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        method = relations(TEACHER.apply, TEACHER.params, **options)
        program = make_step(supervised(STUDENT.apply), optax.sgd(0.1), method)
        jax.eval_shape(program.step, jax.eval_shape(program.init, STUDENT.params, jax.random.key(0)), batch())
