"""Distances of distributions and relations of representations, against recorded references and closed forms."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import distillation as d
from ft_jax import transfer
from ft_jax.core import Outputs, compose, make_step, supervised
from ft_jax.core.losses import forward
from ft_jax.distillation.divergences import dkd_rows, jsd_rows, reverse_rows, skewed_reverse_rows, skewed_rows
from ft_jax.distillation.logits import softened_divergence
from ft_jax.models import tiny_decoder

GOLDEN = Path(__file__).parents[1] / "golden" / "distillation.npz"


@functools.cache
def record():
    with np.load(GOLDEN) as file:
        return {name: jnp.asarray(x) for name, x in file.items() if not name.startswith("version/")}


def direct(params, batch, key):
    """A model whose hidden states are its parameters, and its logits too where the head is the identity."""
    return Outputs(hidden=params["rows"], unembedding=jnp.eye(params["rows"].shape[-1]))


def term(method, batch, **options):
    """The method's term and its gradient by the recorded student."""
    program = make_step(forward(direct), optax.sgd(1.0), method, **options)
    state = program.init({"rows": record()["student"]}, jax.random.key(0))
    new, metrics = jax.jit(program.step)(state, batch)
    return metrics[method.name], state.params["model"]["rows"] - new.params["model"]["rows"]


TEACHER = {"rows": record()["teacher"]}
BATCH = {"index": jnp.arange(6)}
CASES = {
    "jsd/0.0": (d.logits, {"temperature": 1.0, "hard_weight": None}, 1.0),
    "jsd/0.1": (d.jsd, {"beta": 0.1}, 1.0),
    "jsd/0.5": (d.jsd, {"beta": 0.5}, 1.0),
    "jsd/0.9": (d.jsd, {"beta": 0.9}, 1.0),
    "jsd/1.0": (d.reverse_kl, {}, 1.0),
    "jsd/warm": (d.jsd, {"beta": 0.3, "temperature": 2.0}, 1.0),
    "dist": (d.dist, {"inter": 1.5, "intra": 0.7, "temperature": 2.0}, 1.0),
    "standardised": (d.standardised, {"weight": 1.0}, 4.0),  # torchdistill leaves the square out without a task
    "rkd/distance": (d.rkd, {"angle": 0.0}, 1.0),
    "rkd/angle": (d.rkd, {"angle": 1.0, "distance": 0.0}, 1.0),
}


@pytest.mark.parametrize("case", CASES)
def test_terms_and_gradients_are_trls_and_torchdistills(case):
    build, options, factor = CASES[case]
    teacher = {"rows": record()["wide"]} if build is d.rkd else TEACHER
    value, gradient = term(build(direct, teacher, **options), BATCH)
    np.testing.assert_allclose(value, factor * record()[f"{case}/value"], rtol=2e-5)
    np.testing.assert_allclose(gradient, factor * record()[f"{case}/gradient"], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("method", [d.rkd(direct, TEACHER), d.dist(direct, TEACHER)])
def test_examples_that_are_padding_have_no_relations(method):
    rows = record()["student"]
    held = {**TEACHER, "rows": jnp.concatenate([TEACHER["rows"], 9 * jnp.ones((2, 11))])}
    padded = d.rkd(direct, held) if method.name.endswith("rkd") else d.dist(direct, held)
    program = make_step(forward(direct), optax.sgd(1.0), padded)
    state = program.init({"rows": jnp.concatenate([rows, jnp.arange(22.0).reshape(2, 11)])}, jax.random.key(0))
    metrics = program.step(state, {"index": jnp.arange(8), "weights": jnp.array([1.0] * 6 + [0.0] * 2)})[1]
    np.testing.assert_allclose(metrics[padded.name], term(method, BATCH)[0], rtol=1e-5)


def test_the_true_class_and_the_others_are_parts_of_the_divergence():
    """Zhao et al., equation 5: KL = TCKD + (1 - p_teacher(target)) · NCKD."""
    student, teacher = record()["student"], record()["teacher"]
    labels, temperature = jnp.array([0, 3, 10, 5, 2, 2]), 1.7
    others = 1 - jax.nn.softmax(teacher / temperature)[jnp.arange(6), labels]
    hyper = {"alpha": 1.0, "beta": others, "temperature": temperature}
    wanted = softened_divergence(student, teacher, temperature)
    np.testing.assert_allclose(dkd_rows(student, teacher, hyper, labels), wanted, rtol=1e-5)
    slope = jax.grad(lambda x: jnp.sum(dkd_rows(x, teacher, hyper, labels)))(student)
    expected = jax.grad(lambda x: jnp.sum(softened_divergence(x, teacher, temperature)))(student)
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


def test_the_ends_of_the_mixtures():
    student, teacher = record()["student"], record()["teacher"]
    one = {"temperature": 1.0}
    forward_kl, reverse_kl = softened_divergence(student, teacher, 1.0), reverse_rows(student, teacher, one)
    np.testing.assert_allclose(skewed_rows(student, teacher, {**one, "skew": 0.0}), forward_kl, rtol=1e-5)
    np.testing.assert_allclose(skewed_reverse_rows(student, teacher, {**one, "skew": 0.0}), reverse_kl, rtol=1e-5)
    p, q = jax.nn.softmax(teacher), jax.nn.softmax(student)
    wanted = jnp.sum(p * jnp.log(p / (0.3 * p + 0.7 * q)), -1)
    np.testing.assert_allclose(skewed_rows(student, teacher, {**one, "skew": 0.3}), wanted, rtol=1e-4)
    # The divergence itself goes to 0 at both ends, and is that of Kullback and Leibler in the first order.
    near = jsd_rows(student, teacher, {**one, "beta": 1e-4})
    np.testing.assert_allclose(near / 1e-4, forward_kl, rtol=0.05)
    assert np.all(jsd_rows(student, teacher, {**one, "beta": 0.0}) == 0)


def test_several_teachers_teach_their_mean():
    one, other = record()["teacher"], -record()["teacher"]
    method = d.several(direct, ({"rows": one}, {"rows": other}), temperature=2.0, votes=(3.0, 1.0))
    mean = 2.0 * jnp.log(0.75 * jax.nn.softmax(one / 2) + 0.25 * jax.nn.softmax(other / 2))
    wanted = term(d.logits(direct, {"rows": mean}, temperature=2.0), BATCH)
    for a, b in zip(term(method, BATCH), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_students_average_teaches_it_through_its_adapter():
    student = tiny_decoder(jax.random.key(0), vocabulary=16, layers=1)
    method = d.own_average(student.apply, decay=0.7)
    made = compose(method, transfer.lora(rank=2))
    tokens = jax.random.randint(jax.random.key(1), (4, 6), 0, 16)
    batch = {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}
    program = make_step(supervised(student.apply), optax.sgd(0.3), made)
    state, step = program.init(student.params, jax.random.key(3)), jax.jit(program.step)
    average, terms = state.params, []
    for _ in range(3):
        state, metrics = step(state, batch)
        average = jax.tree.map(lambda a, p: 0.7 * a + 0.3 * p, average, state.params)
        terms.append(float(metrics[method.name]))
    for a, b in zip(*map(jax.tree.leaves, (state.memory[method.name], average)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert abs(terms[0]) < 1e-6 and min(terms[1:]) > 1e-3


def test_hints_are_regressed_by_a_learned_projection():
    student, teacher = (
        tiny_decoder(jax.random.key(seed), vocabulary=16, width=width, layers=layers)
        for seed, width, layers in ((0, 16, 1), (1, 24, 2))
    )
    batch = {"input_ids": jax.random.randint(jax.random.key(2), (4, 5), 0, 16)}
    method = d.hints(teacher.apply, teacher.params, layers=(0,), teacher_layers=(1,), widths=(16, 24))
    program = make_step(forward(student.apply), optax.sgd(0.01), compose(method, transfer.lora(rank=2)))
    state, step, values = program.init(student.params, jax.random.key(3)), jax.jit(program.step), []
    start = state.params[method.name]["projections"][0]
    own = student.apply.collecting(("hidden",))(student.params, batch).states["layers/0"]
    theirs = teacher.apply.collecting(("hidden",))(teacher.params, batch).states["layers/1"]
    wanted = 0.5 * np.mean(np.sum((own @ start["kernel"] + start["bias"] - theirs) ** 2, -1))
    for _ in range(4):
        state, metrics = step(state, batch)
        values.append(float(metrics[method.name]))
    np.testing.assert_allclose(values[0], wanted, rtol=1e-5)
    assert values[-1] < 0.98 * values[0]
    assert np.any(state.params[method.name]["projections"][0]["kernel"] != start["kernel"])
    with pytest.raises(ValueError, match=r"give widths=\(16, 24\)"):
        bare = d.hints(teacher.apply, teacher.params, layers=(0,), teacher_layers=(1,))
        program = make_step(forward(student.apply), optax.sgd(0.1), bare)
        jax.eval_shape(program.step, program.init(student.params, jax.random.key(3)), batch)
    with pytest.raises(
        ValueError, match="the teacher has no layer 5; it has layers/0 to layers/1, embeddings, of which"
    ):
        bare = d.hints(teacher.apply, teacher.params, layers=(0,), teacher_layers=(5,), widths=(16, 24))
        program = make_step(forward(student.apply), optax.sgd(0.1), bare)
        jax.eval_shape(program.step, program.init(student.params, jax.random.key(3)), batch)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: d.jsd(direct, TEACHER, beta=0.0), "has beta 0.0; .* use distillation.logits"),
        (lambda: d.jsd(direct, TEACHER, beta=1.0), "has beta 1.0; .* use distillation.reverse_kl"),
        (lambda: d.skewed_kl(direct, TEACHER, skew=1.0), "has skew 1.0"),
        (lambda: d.dkd(direct, TEACHER, temperature=0.0), "has temperature 0.0"),
        (lambda: d.several(direct, ()), "has 0 teachers"),
        (lambda: d.several(direct, (TEACHER,), votes=(1.0, 2.0)), "2 votes"),
        (lambda: d.several(direct, (TEACHER,), votes=(0.0,)), r"has votes \(0.0,\)"),
        (lambda: d.own_average(direct, decay=1.0), "has decay 1.0"),
        (lambda: d.hints(direct, TEACHER, layers=(1, 2), teacher_layers=(1,)), "pairs 2 layers with 1"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(make, says):
    with pytest.raises(ValueError, match=says):
        make()
