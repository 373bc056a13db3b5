"""A teacher with another tokenizer: against trl, against a slow version, and where it is another method."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import data
from ft_jax.core import Outputs, compose, make_step, supervised
from ft_jax.data.alignment import GROUPS, TAUGHT
from ft_jax.distillation import jsd, on_policy, uld
from ft_jax.distillation.uld import distance
from ft_jax.distillation.wasserstein import wasserstein as largest
from ft_jax.testing.problem import VOCABULARY, problem

RECORD = json.loads((Path(__file__).parents[1] / "golden" / "uld.json").read_text(encoding="utf-8"))
NUMBERS = {"sorted": None, "adaptive": {"beta": 0.5}, "weighed": {"beta": 0.2, "matched": 0.7, "unmatched": 0.4}}


def recorded(side):
    """Logits ``[1, time, classes]`` and a batch of one recorded text."""
    one, groups = RECORD[side], RECORD["groups"][side == "teacher"]
    ids, prompt = np.array(one["ids"]), one["prompt"]
    labels = np.append(np.where(np.arange(1, len(ids)) >= prompt, ids[1:], -1), -1)
    numbers = np.zeros(len(ids), np.int32)
    numbers[prompt - 1 : -1] = groups
    fields = {"input_ids": ids, "labels": labels, GROUPS: numbers}
    return jnp.asarray(one["logits"])[None], {name: jnp.asarray(x)[None] for name, x in fields.items()}


def test_groups_are_trls():
    ends = [RECORD[side]["ends"] for side in ("student", "teacher")]
    pieces = [[b"x" * size for size in np.diff([0, *one])] for one in ends]
    assert [one.tolist() for one in data.aligned(*pieces)] == RECORD["groups"]


@pytest.mark.parametrize("name", RECORD["found"])
def test_losses_and_gradients_are_trls(name):
    merge, kind = name.split()
    (logits, own), (their_logits, theirs) = recorded("student"), recorded("teacher")
    # trl's mean is over groups, this one's over tokens: with these weights every group counts 1.
    sizes = np.bincount(np.asarray(own[GROUPS][0]), minlength=1)
    weights = np.where(own[GROUPS] > 0, 1 / sizes[own[GROUPS]], 0.0)
    batch = {**own, "weights": jnp.asarray(weights, jnp.float32), TAUGHT: theirs}
    common = None if kind == "sorted" else tuple(np.array(ids) for ids in RECORD["common"])

    def loss(logits):
        sides = (Outputs(x, jnp.eye(x.shape[-1])) for x in (logits, their_logits))
        return distance(*sides, batch, common, NUMBERS[kind], merge)

    value, gradient = jax.value_and_grad(loss)(logits)
    np.testing.assert_allclose(value, RECORD["found"][name]["loss"], rtol=2e-5)
    np.testing.assert_allclose(gradient[0], RECORD["found"][name]["gradient"], atol=2e-7)


def softmax(x):
    exponential = np.exp(x - x.max())
    return exponential / exponential.sum()


def by_hand(own, theirs, batch, common, numbers, merge):
    """The mean over tokens, group by group in plain numpy."""
    rows, counts = [], []
    for row in range(len(own)):
        sides = []
        for logits, part in ((own, batch), (theirs, batch[TAUGHT])):
            groups = {}
            for place, group in enumerate(np.asarray(part[GROUPS][row])):
                if group and part["attention_mask"][row, place]:
                    groups.setdefault(group, []).append(place)
            merged = {}
            for group, places in groups.items():
                stands = places[0 if merge == "observed" else -1]
                value = softmax(np.asarray(logits[row, stands], np.float64))
                for place in places:
                    if place != stands:
                        value = value * softmax(np.asarray(logits[row, place], np.float64))[part["labels"][row, place]]
                merged[group] = value
            sides.append(merged)
        for place, group in enumerate(np.asarray(batch[GROUPS][row])):
            counts.append(float(batch["weights"][row, place]))
            if group not in sides[0] or group not in sides[1]:
                rows.append(0.0)
                continue
            p, q = sides[0][group], sides[1][group]
            if common is None:
                rows.append(wasserstein(p, q))
                continue
            a, b = p[list(common[0])], q[list(common[1])]
            beta, share = numbers["beta"], numbers.get("matched", len(common[1]) / len(q))
            mixed = beta * b + (1 - beta) * a
            divergence = (beta * b * np.log(b / mixed) + (1 - beta) * a * np.log(a / mixed)).sum()
            rest = wasserstein(np.delete(p, list(common[0])), np.delete(q, list(common[1])))
            rows.append(share * divergence + numbers.get("unmatched", 1 - share) * rest)
    return np.dot(rows, counts) / np.sum(counts)


def wasserstein(p, q):
    size = max(len(p), len(q))
    p, q = (np.pad(np.sort(x)[::-1], (0, size - len(x))) for x in (p, q))
    return np.abs(p - q).sum()


def text(draw, batch=3, time=9, their_time=7):
    """Rows with prompts, groups of 1 to 3 tokens on each side, padding, and a group that the teacher does not have."""
    groups, their_groups = np.zeros((batch, time), int), np.zeros((batch, their_time), int)
    groups[0, 1:8], their_groups[0, 2:6] = (1, 1, 2, 3, 3, 3, 4), (1, 2, 3, 3)
    groups[1, 0:5], their_groups[1, 0:6] = (1, 2, 2, 3, 4), (1, 1, 1, 2, 3, 4)
    groups[2, 3:6], their_groups[2, 4:6] = (1, 2, 3), (1, 2)

    def side(groups, classes):
        last = groups.shape[1] - np.argmax(groups[:, ::-1] > 0, axis=1)
        return {
            "input_ids": draw.integers(0, classes, groups.shape),
            "labels": np.where(groups > 0, draw.integers(0, classes, groups.shape), -1),
            "attention_mask": (np.arange(groups.shape[1]) < last[:, None]).astype(int),
            GROUPS: groups,
        }

    own = side(groups, 11)
    return {**own, "weights": (own["labels"] >= 0).astype(float), TAUGHT: side(their_groups, 14)}


@pytest.mark.parametrize("merge", ["observed", "bayesian"])
@pytest.mark.parametrize("kind", ["sorted", "adaptive", "weighed"])
def test_it_is_the_slow_version_chunk_by_chunk_and_whole(kind, merge):
    draw = np.random.default_rng(0)
    batch = text(draw)
    own, theirs = (draw.normal(size=(3, time, classes)) * 2 for time, classes in ((9, 11), (7, 14)))
    common = None if kind == "sorted" else (np.array([1, 4, 10, 0]), np.array([13, 2, 0, 7]))
    given, head = jax.tree.map(jnp.asarray, batch), draw.normal(size=(11, 11))
    wanted = by_hand(own @ head, theirs, batch, common, NUMBERS[kind], merge)

    def loss(hidden, head, chunk):
        sides = Outputs(hidden, head), Outputs(jnp.asarray(theirs), jnp.eye(14))
        return distance(*sides, given, common, NUMBERS[kind], merge, chunk=chunk)

    differentiated = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=2)
    whole, chunked = (differentiated(jnp.asarray(own), jnp.asarray(head), chunk) for chunk in (64, 2))
    np.testing.assert_allclose(whole[0], wanted, rtol=1e-4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), whole, chunked)


@pytest.mark.parametrize("top", [1, 4, 13])
def test_the_largest_values_and_the_rest_as_one_are_a_lower_bound(top):
    draw = np.random.default_rng(0)
    p, q = draw.dirichlet(np.full(11, 0.3), 5) * 0.7, draw.dirichlet(np.full(14, 0.3), 5)

    def cut(x):
        x = np.sort(x)[::-1]
        return np.append(np.pad(x[:top], (0, max(0, top - len(x)))), x[top:].sum())

    found = largest(jnp.asarray(p), jnp.asarray(q), top)
    np.testing.assert_allclose(found, [np.abs(cut(a) - cut(b)).sum() for a, b in zip(p, q, strict=True)], atol=1e-6)
    whole = np.array([wasserstein(a, b) for a, b in zip(p, q, strict=True)])
    assert (np.asarray(found) <= whole + 1e-6).all()
    np.testing.assert_allclose(largest(jnp.asarray(p), jnp.asarray(q), 14), whole, atol=1e-6)
    slope = jax.grad(lambda p: jnp.sum(largest(p, jnp.asarray(q), top)))(jnp.asarray(p))
    nudge = draw.normal(size=p.shape) * 1e-3
    moved = (
        largest(jnp.asarray(p + nudge), jnp.asarray(q), top) - largest(jnp.asarray(p - nudge), jnp.asarray(q), top)
    ) / 2
    np.testing.assert_allclose(jnp.sum(moved), jnp.sum(slope * nudge), rtol=0.05, atol=2e-4)


def test_equal_values_share_the_slope_of_their_places():
    p, q = jnp.array([0.2, 0.5, 0.2, 0.1]), jnp.array([0.35, 0.25, 0.15, 0.15, 0.1])
    # From the largest on: 0.5 - 0.35, 0.2 - 0.25, 0.2 - 0.15, 0.1 - 0.15, 0 - 0.1.
    np.testing.assert_allclose(largest(p, q), 0.4, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(largest)(p, q), [0.0, 1.0, 0.0, -1.0], atol=1e-7)
    np.testing.assert_allclose(jax.grad(largest, argnums=1)(p, q), [-1.0, 1.0, 0.0, 0.0, 1.0], atol=1e-7)


def test_one_tokenizer_on_both_sides_is_the_jensen_shannon_divergence():
    tiny = problem()
    teacher = jax.tree.map(lambda leaf: 1.3 * leaf, tiny.params)
    numbers = jnp.where(tiny.batch["attention_mask"] > 0, 1 + jnp.arange(tiny.batch["labels"].shape[1]), 0)
    part = {name: tiny.batch[name] for name in ("input_ids", "attention_mask", "labels")}
    batch = {**tiny.batch, GROUPS: numbers, TAUGHT: {**part, GROUPS: numbers}}
    every = tuple(range(VOCABULARY))
    own = uld(tiny.apply, teacher, 0.7, 0.5, common=(every, every), beta=0.3)
    found = []
    for method in (own, jsd(tiny.apply, teacher, 0.7, beta=0.3, hard_weight=0.5)):
        program = make_step(supervised(tiny.apply), optax.sgd(0.1), method)
        state, metrics = jax.jit(program.step)(program.init(tiny.params, jax.random.key(0)), batch)
        found.append((state.params["model"], metrics[method.name]))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), *found)


def test_wrong_numbers_and_batches_are_refused():
    tiny = problem()
    build = functools.partial(uld, tiny.apply, tiny.params)
    with pytest.raises(ValueError, match="merge 'last'; use 'observed' or 'bayesian'"):
        build(merge="last")
    with pytest.raises(ValueError, match="beta 1.0; give a number above 0"):
        build(beta=1.0)
    with pytest.raises(ValueError, match="top 0; give at least 1"):
        build(top=0)
    with pytest.raises(ValueError, match="don't pair"):
        build(common=((1, 2), (1,)))
    with pytest.raises(ValueError, match="has the student write others"):
        compose(on_policy(tiny.apply, max_new_tokens=2), build())

    def step(method, batch):
        program = make_step(supervised(tiny.apply), optax.sgd(0.1), method)
        jax.eval_shape(program.step, program.init(tiny.params, jax.random.key(0)), batch)

    with pytest.raises(KeyError, match=r"data\.teacher_tokenizer"):
        step(build(), tiny.batch)
    numbers = jnp.ones_like(tiny.batch["labels"])
    batch = {**tiny.batch, GROUPS: numbers, TAUGHT: {**tiny.batch, GROUPS: numbers}}
    with pytest.raises(ValueError, match="a common token has id 40 and the teacher 32 classes"):
        step(build(common=((1,), (40,))), batch)
