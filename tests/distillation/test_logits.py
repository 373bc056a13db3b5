from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import distillation, transfer
from ft_jax.core import Outputs, compose, jit_step, make_step, optimizer, parameters, supervised
from ft_jax.core.losses import forward
from ft_jax.core.members import map_members
from ft_jax.core.params import paths
from ft_jax.models import tiny_decoder, tiny_encoder, with_classifier

GOLDEN = Path(__file__).parents[1] / "golden" / "kd.npz"
STUDENT = tiny_decoder(jax.random.key(0), layers=1)
TEACHER = tiny_decoder(jax.random.key(1), width=24, layers=2)
IDS = jax.random.randint(jax.random.key(2), (8, 7), 0, 32)
BATCH = {
    "input_ids": IDS[:, :-1],
    "labels": IDS[:, 1:],
    "weights": (jnp.arange(6) < 2 + jnp.arange(8)[:, None] % 5).astype(jnp.float32),
}
NAME = "distillation.logits"


def direct(params, batch, key):
    """A model whose parameters are its logits."""
    return Outputs(hidden=params["logits"], unembedding=jnp.eye(params["logits"].shape[-1]))


def start(method, apply=STUDENT.apply, params=STUDENT.params, **options):
    program = make_step(supervised(apply), optimizer(optax.sgd, learning_rate=0.1), method, **options)
    return program, program.init(params, jax.random.key(3))


@pytest.mark.parametrize("case", ["classes", "tokens"])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_loss_and_gradient_equal_torchs(case, temperature):
    with np.load(GOLDEN) as file:
        record = {name: jnp.asarray(value) for name, value in file.items()}
    weights = record[f"{case}/weights"]
    batch = {"labels": jnp.zeros(weights.shape, jnp.int32), "weights": weights}
    teacher = {"logits": record[f"{case}/teacher"]}
    method = distillation.logits(direct, teacher, weight=3.0, temperature=temperature, hard_weight=0.0)
    program = make_step(supervised(direct), optax.sgd(1.0), method)
    state = program.init({"logits": record[f"{case}/student"]}, jax.random.key(0))
    new, metrics = jax.jit(program.step)(state, batch)
    np.testing.assert_allclose(metrics[NAME], 3.0 * record[f"{case}/{temperature}/value"], rtol=1e-5)
    moved = new.params["model"]["logits"] - state.params["model"]["logits"]
    np.testing.assert_allclose(moved, -3.0 * record[f"{case}/{temperature}/gradient"], rtol=1e-4, atol=1e-6)


def test_the_teacher_is_frozen_shared_and_never_copied():
    method = distillation.logits(TEACHER.apply, TEACHER.params)
    program, state = start(method)
    assert all(path.startswith("model/") for path in paths(state.params))
    teacher = jax.tree.leaves(state.frozen[NAME])
    assert all(a is b for a, b in zip(teacher, jax.tree.leaves(TEACHER.params), strict=True))
    state, _ = jit_step(program.step)(state, BATCH)
    assert all(a is b for a, b in zip(jax.tree.leaves(state.frozen[NAME]), teacher, strict=True))
    members = map_members(program, 3).init(STUDENT.params, jax.random.key(3))
    for a, b in zip(jax.tree.leaves(members.frozen[NAME]), teacher, strict=True):
        assert a.shape == b.shape


def test_the_teacher_runs_without_dropout():
    keys = []

    def apply(params, batch, key):
        keys.append(key)
        return TEACHER.apply(params, batch, key)

    program, state = start(distillation.logits(apply, TEACHER.params))
    jax.eval_shape(program.step, state, BATCH)
    assert keys and all(key is None for key in keys)


def test_chunks_do_not_change_the_step(monkeypatch):
    from ft_jax.core import losses

    method = distillation.logits(TEACHER.apply, TEACHER.params)
    results = []
    for size in (losses.MOST_LOGITS, 8 * 32 * 2):
        monkeypatch.setattr(losses, "MOST_LOGITS", size)
        program, state = start(method)
        results.append(jax.jit(program.step)(state, BATCH))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        if jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_hard_weight_scales_the_task_term_alone():
    terms = []
    for hard in (1.0, 0.25):
        program, state = start(distillation.logits(TEACHER.apply, TEACHER.params, hard_weight=hard))
        terms.append(jax.jit(program.step)(state, BATCH)[1])
    np.testing.assert_allclose(terms[1]["task"], 0.25 * terms[0]["task"], rtol=1e-6)
    np.testing.assert_allclose(terms[1][NAME], terms[0][NAME], rtol=1e-6)


def test_without_a_hard_weight_nothing_of_the_task_is_computed():
    (zero, zeros), (none, alone) = (
        start(distillation.logits(TEACHER.apply, TEACHER.params, hard_weight=hard)) for hard in (0.0, None)
    )
    lowered = [jax.jit(program.step).lower(state, BATCH) for program, state in ((zero, zeros), (none, alone))]
    flops = [step.compile().cost_analysis()["flops"] for step in lowered]
    assert flops[1] < 0.99 * flops[0]
    (state, _), (same, metrics) = zero.step(zeros, BATCH), none.step(alone, BATCH)
    assert "task" not in metrics and "hard_weight" not in alone.hyper[NAME]
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(same.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_numbers_are_data_and_compile_nothing():
    program, state = start(distillation.logits(TEACHER.apply, TEACHER.params))
    step, values = jit_step(program.step), []
    for temperature in (1.0, 2.0, 5.0):
        state = state.with_hyper({f"{NAME}.temperature": temperature, "optimizer.learning_rate": 0.0})
        state, metrics = step(state, BATCH)
        values.append(float(metrics[NAME]))
    assert step.compilations() == 1 and len(set(values)) == 3


def test_the_student_comes_to_agree_with_its_teacher():
    method = distillation.logits(TEACHER.apply, TEACHER.params, hard_weight=0.0)
    program = make_step(supervised(STUDENT.apply), optimizer(optax.adam, learning_rate=1e-2), method)
    state, step = program.init(STUDENT.params, jax.random.key(3)), jit_step(program.step)
    counted = np.asarray(BATCH["weights"], bool)
    expected = np.argmax(TEACHER.apply(TEACHER.params, BATCH).logits, -1)[counted]

    def agreement(state):
        student = STUDENT.apply(parameters(state, method)["model"], BATCH).logits
        return np.mean(np.argmax(student, -1)[counted] == expected)

    before = agreement(state)
    for _ in range(120):
        state, _ = step(state, BATCH)
    assert before < 0.3 and agreement(state) > 0.9


def test_unlabelled_batches_distil_too():
    program = make_step(forward(STUDENT.apply), optax.sgd(0.1), distillation.logits(TEACHER.apply, TEACHER.params))
    state = program.init(STUDENT.params, jax.random.key(3))
    _, metrics = jax.jit(program.step)(state, {"input_ids": IDS})
    assert set(metrics) == {"loss", "gradient_norm", NAME} and metrics[NAME] > 0


def test_an_adapter_learns_from_the_base_and_a_teacher_of_its_own_shape():
    method = compose(distillation.logits(TEACHER.apply, TEACHER.params), transfer.lora(rank=2))
    program, state = start(method)
    assert {path.rsplit("/", 1)[1] for path in paths(state.params)} == {"a", "b"}
    assert not any(path.endswith("/a") for path in paths(state.frozen[NAME]))
    losses = []
    for _ in range(5):
        state, metrics = jax.jit(program.step)(state, BATCH)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]


def test_mismatches_are_refused_in_one_sentence():
    other = tiny_decoder(jax.random.key(1), vocabulary=40)
    with pytest.raises(
        ValueError, match="student has 32 classes and the teacher 40; choose a teacher with the student's"
    ):
        program, state = start(distillation.logits(other.apply, other.params))
        jax.eval_shape(program.step, state, BATCH)
    pooling = with_classifier(tiny_encoder(jax.random.key(1)), 32, jax.random.key(2))
    with pytest.raises(ValueError, match=r"student's are \(8, 6\) and the teacher's \(8,\); give both models outputs"):
        program, state = start(distillation.logits(pooling.apply, pooling.params))
        jax.eval_shape(program.step, state, BATCH)
    headless = {**TEACHER.params}
    with pytest.raises(ValueError, match="the teacher has no head; give it an apply with an unembedding"):
        bare = lambda params, batch, key: Outputs(hidden=TEACHER.apply(params, batch, key).hidden)  # noqa: E731
        program, state = start(distillation.logits(bare, headless))
        jax.eval_shape(program.step, state, BATCH)
    with pytest.raises(ValueError, match="temperature 0.0; give it a positive one"):
        distillation.logits(TEACHER.apply, TEACHER.params, temperature=0.0)
