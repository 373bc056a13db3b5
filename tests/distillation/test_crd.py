"""Contrastive representation distillation: two steps of torchdistill's, and a slow version of whole steps."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.core import Outputs, make_step, supervised
from ft_jax.core.params import digest
from ft_jax.distillation import crd
from ft_jax.distillation.crd import embedded, estimation, normaliser_sums, scores, written

RECORD = np.load(Path(__file__).parents[1] / "golden" / "crd.npz", allow_pickle=False)
TEMPERATURE, MOMENTUM = 0.2, 0.3
EXAMPLES, NEGATIVES, DIMENSION, WIDTHS = 9, 4, 3, (5, 6)
NAME = "distillation.crd"


def test_two_steps_are_torchdistills():
    own, theirs = map(jnp.asarray, RECORD["banks"])
    normalisers = None
    for step in range(2):
        place, drawn, sides, loss, gradient, constants, banks = (
            jnp.asarray(RECORD[f"step_{step}/{name}"])
            for name in ("places", "drawn", "embeddings", "loss", "gradient", "normalisers", "banks")
        )
        if normalisers is None:
            part = {"embeddings": jnp.swapaxes(sides, 0, 1), "drawn": drawn}
            sums, count = normaliser_sums(part, {"student": own, "teacher": theirs}, jnp.ones(3), TEMPERATURE)
            normalisers = len(own) * sums / count
        np.testing.assert_allclose(normalisers, constants, rtol=1e-5)

        def value(sides, banks=(theirs, own), drawn=drawn, normalisers=normalisers):
            each = zip(sides, banks, normalisers, strict=True)
            return sum(
                jnp.mean(estimation(scores(side, bank, drawn, TEMPERATURE) / z, len(bank))) for side, bank, z in each
            )

        found, slope = jax.value_and_grad(value)(sides)
        np.testing.assert_allclose(found, loss[0], rtol=1e-5)
        np.testing.assert_allclose(slope, gradient, rtol=1e-4, atol=1e-6)
        own, theirs = (
            written(bank, place, side, jnp.ones(3, bool), MOMENTUM)
            for bank, side in zip((own, theirs), sides, strict=True)
        )
        np.testing.assert_allclose(jnp.stack([own, theirs]), banks, rtol=1e-5, atol=1e-6)


def apply(params, batch, key=None):
    return Outputs(hidden=jnp.tanh(batch["x"] @ params["in"]), unembedding=params["out"])


def networks():
    draw = np.random.default_rng(0)
    return tuple(
        {"in": jnp.asarray(draw.normal(size=(4, width))), "out": jnp.asarray(draw.normal(size=(width, 3)))}
        for width in WIDTHS
    )


def batch_of(places, weights=None):
    draw = np.random.default_rng(sum(places))
    batch = {"x": draw.normal(size=(len(places), 4)), "labels": draw.integers(0, 3, len(places))}
    batch |= {"index": np.array(places, np.int32)} | ({} if weights is None else {"weights": np.array(weights)})
    return jax.tree.map(jnp.asarray, batch)


def built(rate=0.1, **options):
    student, teacher = networks()
    sizes = {"widths": WIDTHS, "examples": EXAMPLES, "negatives": NEGATIVES, "dimension": DIMENSION}
    method = crd(apply, teacher, apply, **sizes, temperature=TEMPERATURE, momentum=MOMENTUM, **options)
    program = make_step(supervised(apply), optax.sgd(rate), method)
    return program, program.init(student, jax.random.key(0))


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def by_hand(state, batch, normalisers):
    """The term, the banks after the step and the constants, one example and one drawn row at a time."""
    held = jax.tree.map(np.asarray, {**state.frozen[NAME], "projections": state.params[NAME]["projections"]})
    student = np.asarray(state.params["model"]["in"])
    x, places = np.asarray(batch["x"]), np.asarray(batch["index"])
    counts = np.asarray(batch.get("weights", np.ones(len(x)))) > 0
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), digest(NAME))
    sides = [np.tanh(x @ weights) for weights in (student, held["teacher"]["in"])]
    sides = [
        unit(side @ held["projections"][name]["kernel"] + held["projections"][name]["bias"])
        for side, name in zip(sides, ("student", "teacher"), strict=True)
    ]
    banks = [np.asarray(state.memory[NAME][name]) for name in ("student", "teacher")]
    chances = np.zeros((2, len(x), NEGATIVES + 1))
    for row in range(len(x)):
        drawn = jax.random.randint(jax.random.fold_in(key, row), (NEGATIVES,), 0, EXAMPLES)
        for at, place in enumerate([places[row], *np.asarray(drawn)]):
            chances[0, row, at] = np.exp(sides[0][row] @ banks[1][place] / TEMPERATURE)
            chances[1, row, at] = np.exp(sides[1][row] @ banks[0][place] / TEMPERATURE)
    if normalisers is None:
        normalisers = EXAMPLES * chances[:, counts].mean(axis=(1, 2))
    noise = NEGATIVES / EXAMPLES
    p = chances / normalisers[:, None, None]
    each = -np.log(p[..., 0] / (p[..., 0] + noise)) - np.log(noise / (p[..., 1:] + noise)).sum(-1)
    after = [bank.copy() for bank in banks]
    for place in set(places[counts].tolist()):
        for side in range(2):
            mean = sides[side][(places == place) & counts].mean(0)
            after[side][place] = unit(MOMENTUM * banks[side][place] + (1 - MOMENTUM) * mean)
    return each.sum(0)[counts].mean(), after, normalisers


def test_whole_steps_are_the_slow_version():
    program, state = built(weight=2.0)
    step, normalisers = jax.jit(program.step), None
    for places, weights in (((1, 4, 7), None), ((4, 4, 8, 0), (1.0, 1.0, 1.0, 0.0)), ((0, 7), None)):
        batch = batch_of(places, weights)
        value, banks, normalisers = by_hand(state, batch, normalisers)
        before, (state, metrics) = state, step(state, batch)
        np.testing.assert_allclose(metrics[NAME], 2.0 * value, rtol=1e-4)
        found = state.memory[NAME]
        np.testing.assert_allclose(found["normalisers"], normalisers, rtol=1e-4)
        for name, bank in zip(("student", "teacher"), banks, strict=True):
            np.testing.assert_allclose(found[name], bank, rtol=1e-4, atol=1e-5)
        for name in ("student", "teacher"):
            moved = (
                state.params[NAME]["projections"][name]["kernel"] - before.params[NAME]["projections"][name]["kernel"]
            )
            assert jnp.abs(moved).max() > 0
    assert jax.tree.all(jax.tree.map(jnp.array_equal, state.frozen[NAME]["teacher"], networks()[1]))


def test_the_student_comes_to_tell_its_examples_by_the_teachers_representation():
    program, state = built(rate=0.3, weight=1.0)
    step, batch = jax.jit(program.step), batch_of(range(EXAMPLES))

    def right(state):
        through = state.params[NAME]["projections"]
        sides = (("student", state.params["model"]), ("teacher", networks()[1]))
        own, theirs = (embedded(through[side], apply(params, batch).hidden) for side, params in sides)
        return float(jnp.mean(jnp.argmax(own @ theirs.T, axis=1) == jnp.arange(EXAMPLES)))

    before = right(state)
    for _ in range(200):
        state, _ = step(state, batch)
    assert right(state) > max(before, 0.8)


def test_wrong_numbers_and_batches_are_refused():
    build = functools.partial(crd, apply, {}, apply, widths=WIDTHS)
    for options, match in (
        ({"examples": 0}, "examples=0; give at least 1"),
        ({"examples": 5, "negatives": 0}, "negatives=0"),
        ({"examples": 5, "temperature": 0.0}, "temperature 0.0; give a positive one"),
        ({"examples": 5, "momentum": 1.0}, "momentum 1.0; give a number from 0 to below 1"),
    ):
        with pytest.raises(ValueError, match=match):
            build(**options)
    program, state = built()
    batch = batch_of((1, 2))
    del batch["index"]
    with pytest.raises(KeyError, match="index=True"):
        program.step(state, batch)
    assert NAME not in program.evaluate(state, batch).terms
