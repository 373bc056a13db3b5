"""Contrastive losses against open_clip's recorded ones, closed forms and slow obvious versions."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from core import tiny

from ft_jax.core import Method, Outputs, compose, forward, make_step, supervised
from ft_jax.core.state import Ungathered, direct
from ft_jax.models.networks.parts.layers import dropout
from ft_jax.multimodal import (
    Tower,
    bind,
    clip,
    coca,
    contrastive,
    hard_negatives,
    late_interaction,
    matryoshka,
    max_similarities,
    modality_dropout,
    siglip,
    sigmoid_contrastive,
    temperature,
)  # fmt: skip
from ft_jax.multimodal.clip import contrastive_rows
from ft_jax.multimodal.siglip import sigmoid_ring
from ft_jax.testing.problem import layout_of, problem

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "contrast.npz")
IMAGE, TEXT = GOLDEN["image"], GOLDEN["text"]
PAIRS, WIDTH = IMAGE.shape


def passing(params, batch, key):
    """A tower that only passes its input on."""
    return Outputs(hidden=batch["x"] + params["shift"])


def feed():
    return {"x": jnp.asarray(IMAGE), "paired": {"x": jnp.asarray(TEXT)}}


def started(method, accumulate=1, **changes):
    """A program over features as they are: projections that change nothing."""
    program = make_step(forward(passing), optax.sgd(1.0), method, accumulate=accumulate)
    state = program.init({"shift": jnp.zeros(WIDTH)}, jax.random.key(0))
    name = next(name for name in state.params if name.startswith("multimodal."))
    own = dict(state.params[name])
    for projection in ("projection", "other_projection"):
        if projection in own:
            own[projection] = {"kernel": jnp.eye(WIDTH)}
    own |= {field: jnp.float32(value) for field, value in changes.items()}
    return program, state.replace(params={**state.params, name: own})


def term(method, batch=None, **changes):
    program, state = started(method, **changes)
    return program.step(state, feed() if batch is None else batch)[1]


TOWER = {"shift": jnp.zeros(WIDTH)}
KINDS = {
    "clip": (lambda x, y, scale: contrastive(x, y, scale), (7.0,), contrastive_rows, ("scale",)),
    "siglip": (sigmoid_contrastive, (7.0, -3.0), Ungathered(sigmoid_ring), ("scale", "bias")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_equal_open_clips(kind):
    function, numbers, _, names = KINDS[kind]
    arguments = (jnp.asarray(IMAGE), jnp.asarray(TEXT), *map(jnp.float32, numbers))
    value, gradients = jax.value_and_grad(function, argnums=tuple(range(len(arguments))))(*arguments)
    np.testing.assert_allclose(value, GOLDEN[f"{kind}/loss"], rtol=1e-5)
    for name, gradient in zip(("image", "text", *names), gradients, strict=True):
        np.testing.assert_allclose(gradient, GOLDEN[f"{kind}/{name}"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_on_eight_devices_equal_open_clips_on_one(kind):
    _, numbers, function, names = KINDS[kind]
    devices = jax.devices()[:8]
    shared = tuple(map(jnp.float32, numbers))

    def local(rows, shared):
        plain = shared[0] if kind == "clip" else shared
        return direct(function, rows, plain, jnp.ones(rows[0].shape[0]), "data")

    def both(rows, shared):
        value, (rows, shared) = jax.value_and_grad(local, argnums=(0, 1))(rows, shared)
        # What is minimised is the mean over the devices.
        return value, jax.tree.map(lambda x: x / len(devices), rows), jax.lax.pmean(shared, "data")

    rows = tuple(jnp.asarray(side).reshape(8, 1, WIDTH) for side in (IMAGE, TEXT))
    value, rows, shared = jax.pmap(both, axis_name="data", in_axes=(0, None), devices=devices)(rows, shared)
    np.testing.assert_allclose(value.mean(), GOLDEN[f"{kind}/loss"], rtol=1e-5)
    for name, gradient in zip(("image", "text"), rows, strict=True):
        np.testing.assert_allclose(gradient[:, 0], GOLDEN[f"{kind}/{name}"], rtol=1e-4, atol=1e-6)
    for name, gradient in zip(names, shared, strict=True):
        np.testing.assert_allclose(gradient[0], GOLDEN[f"{kind}/{name}"], rtol=1e-4, atol=1e-6)


def test_siglip_gathers_nothing_over_devices():
    def local(x, y):
        return direct(Ungathered(sigmoid_ring), (x, y), (7.0, -3.0), jnp.ones(x.shape[0]), "data")

    rows = jnp.asarray(IMAGE).reshape(8, 1, WIDTH)
    traced = str(jax.make_jaxpr(jax.pmap(jax.grad(local), axis_name="data"))(rows, rows))
    assert "ppermute" in traced and "all_gather" not in traced


def test_the_method_siglip_has_that_loss_and_starts_at_ten_and_minus_ten():
    method = siglip(passing, TOWER, width=WIDTH)
    found = term(method, log_scale=math.log(7.0), logit_bias=-3.0)
    np.testing.assert_allclose(found["multimodal.siglip"], GOLDEN["siglip/loss"], rtol=1e-5)
    own = method.surgery({}, jax.random.key(0))["multimodal.siglip"]
    np.testing.assert_allclose([jnp.exp(own["log_scale"]), own["logit_bias"]], [10.0, -10.0], rtol=1e-6)


@pytest.mark.parametrize("devices", (1, 8))
def test_cocas_terms_and_gradients_equal_open_clips(devices):
    logits, labels = jnp.asarray(GOLDEN["logits"]), jnp.asarray(GOLDEN["labels"])

    def told(params, batch, key=None):
        image = batch["image_tokens"][:, 0]
        # A device tells the captions of its own images.
        own = jnp.argmin(jnp.sum(jnp.square(image[:, None] - jnp.asarray(IMAGE)), axis=-1), axis=1)
        return Outputs((logits + params["shift"])[own], jnp.eye(logits.shape[-1]), states={"image": image})

    def images(params, batch, key):
        return Outputs(hidden=batch["x"][:, None] + params["shift"])

    def texts(params, batch, key):
        # The last real token is the caption's end.
        return Outputs(hidden=jnp.where(jnp.arange(5)[:, None] == 3, batch["x"][:, None], 9.0))

    captioner = SimpleNamespace(
        config=SimpleNamespace(width=WIDTH), apply=told, params={"shift": jnp.zeros_like(logits)}
    )
    method = coca(texts, {}, captioner, width=WIDTH)
    axis = None if devices == 1 else "data"
    program = make_step(forward(images), optax.sgd(1.0), method, axis=axis)
    state = program.init({"shift": jnp.zeros(WIDTH)}, jax.random.key(0))
    own = dict(state.params["multimodal.coca"])
    own |= {side: {"kernel": jnp.eye(WIDTH)} for side in ("projection", "other_projection")}
    own["log_scale"] = jnp.float32(math.log(7.0))
    state = state.replace(params={**state.params, "multimodal.coca": own})
    part = {"x": jnp.asarray(TEXT), "labels": jnp.where(labels == 0, -1, labels)}
    part["attention_mask"] = jnp.broadcast_to(jnp.arange(5) < 4, labels.shape).astype(jnp.int32)
    part["weights"] = (labels > 0).astype(jnp.float32)
    batch = {"x": jnp.asarray(IMAGE), "paired": part}
    if devices == 1:
        after, metrics = program.step(state, batch)
    else:
        step = jax.pmap(program.step, axis_name=axis, devices=jax.devices()[:devices])
        copies = jax.tree.map(lambda x: jnp.stack([x] * devices), state)
        parts = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
        after, metrics = jax.tree.map(lambda x: x[0], step(copies, parts))
    np.testing.assert_allclose(metrics["loss"], GOLDEN["coca/loss"], rtol=1e-5)
    moved = after.params["multimodal.coca"]
    np.testing.assert_allclose(-moved["captioner"]["shift"], GOLDEN["coca/logits"], rtol=1e-4, atol=1e-6)
    slope = own["log_scale"] - moved["log_scale"]
    np.testing.assert_allclose(slope, 7.0 * GOLDEN["coca/scale"], rtol=1e-4)


@pytest.mark.parametrize("build", (clip, siglip, late_interaction))
def test_gradcache_equals_the_whole_batch_with_dropout_on(build):
    """The law's micro-batches draw masks of their own, so the whole batch is put together here with the same ones."""
    count = 4

    def dropping(params, batch, key):
        hidden = dropout(jnp.tanh(batch["x"] @ params["w"]), 0.5, key)
        return Outputs(hidden=hidden[:, None] if build is late_interaction else hidden)

    weights = jax.random.normal(jax.random.key(5), (2, WIDTH, WIDTH))
    method = build(dropping, {"w": weights[1]}, width=WIDTH)
    program = make_step(forward(dropping), optax.sgd(1.0), method, accumulate=count)
    state = program.init({"w": weights[0]}, jax.random.key(0))
    after, metrics = program.step(state, feed())
    name, seen = method.name, []

    def probe(inner):
        def watched(params, batch, context):
            jax.debug.callback(lambda *keys: seen.append(keys), *map(
                jax.random.key_data, (context.dropout_key, context.drawing(name).dropout_key)))  # fmt: skip
            return inner(params, batch, context)

        return watched

    listening = make_step(
        forward(dropping), optax.sgd(1.0), compose(Method("probe", loss=probe), method), accumulate=count
    )
    listening.step(state, feed())
    jax.effects_barrier()
    keys = [tuple(jax.random.wrap_key_data(jnp.asarray(key)) for key in pair) for pair in seen[-count:]]
    assert len({str(pair) for pair in seen}) == count, "each micro-batch has masks of its own, the same in both passes"

    def whole(params):
        own = params[name]
        sides = []
        for tower, field, projection, which in (
            (params["model"], IMAGE, "projection", 0), (own["tower"], TEXT, "other_projection", 1),
        ):  # fmt: skip
            rows = [None] * PAIRS
            for number in range(count):
                mine = np.arange(number, PAIRS, count)
                hidden = dropping(tower, {"x": jnp.asarray(field)[mine]}, keys[number][which]).hidden
                for place, row in zip(mine, hidden @ own[projection]["kernel"], strict=True):
                    rows[place] = row / jnp.sqrt(jnp.maximum(jnp.sum(row**2, axis=-1, keepdims=True), 1e-12))
            sides.append(jnp.stack(rows))
        if build is late_interaction:
            scores = max_similarities(*sides)
            return optax.softmax_cross_entropy_with_integer_labels(scores, jnp.arange(PAIRS)).mean()
        scale = jnp.exp(own["log_scale"])
        return contrastive(*sides, scale) if build is clip else sigmoid_contrastive(*sides, scale, own["logit_bias"])

    value, gradient = jax.value_and_grad(whole)(state.params)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-6, atol=1e-6)
    moved = jax.tree.map(lambda a, b: a - b, state.params, after.params)
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradient))
    for ours, theirs in zip(jax.tree.leaves(moved), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6 * max(largest, 1.0))


@pytest.mark.parametrize("build", (clip, siglip))
def test_matryoshka_sums_the_loss_of_shorter_embeddings(build):
    method = compose(matryoshka((2, 4), weights=(0.5, 0.25)), build(passing, TOWER, width=WIDTH))
    numbers = {"log_scale": math.log(7.0)} | ({"logit_bias": -3.0} if build is siglip else {})
    found = term(method, **numbers)["loss"]
    expected = 0.0
    for width, factor in ((WIDTH, 1.0), (2, 0.5), (4, 0.25)):
        x, y = (side[:, :width] / np.linalg.norm(side[:, :width], axis=1, keepdims=True) for side in (IMAGE, TEXT))
        logits = 7.0 * x @ y.T
        if build is siglip:
            signs = 2 * np.eye(PAIRS) - 1
            expected += factor * np.log1p(np.exp(-signs * (logits - 3.0))).sum() / PAIRS
        else:
            rows, columns = (np.log(np.exp(one).sum(axis=1)).mean() for one in (logits, logits.T))
            expected += factor * ((rows + columns) / 2 - np.diag(logits).mean())
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_matryoshka_over_a_head_is_the_sum_of_heads_on_the_first_numbers():
    program = make_step(supervised(tiny.apply), optax.sgd(0.1), matryoshka((4, 8)))
    state = program.init(tiny.params(), jax.random.key(0))
    _, metrics = program.step(state, tiny.batch())
    outputs, batch = tiny.apply(tiny.params(), tiny.batch(), None), tiny.batch()
    expected = 0.0
    for width in (4, 8, tiny.WIDTH):
        logits = outputs.hidden[..., :width] @ outputs.unembedding[:width]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        expected += float((losses * batch["weights"]).sum() / batch["weights"].sum())
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ("clip", "siglip", "hard_negatives", "late_interaction"))
def test_the_laws_batch_of_pairs_keeps_what_others_read_of_it(name):
    for names in itertools.permutations((f"multimodal.{name}", "multimodal.coca")):
        assert {"input_ids", "labels"} <= layout_of(*names)(problem().batch)["paired"].keys()


def test_matryoshka_refuses_what_is_no_cut():
    for widths, weights in (((), None), ((0,), None), ((4, 4), None), ((4,), (1.0, 2.0))):
        with pytest.raises(ValueError, match="matryoshka"):
            matryoshka(widths, weights)
    with pytest.raises(ValueError, match=f"cuts embeddings to {WIDTH} numbers and they have {WIDTH}"):
        term(compose(matryoshka((WIDTH,)), clip(passing, TOWER, width=WIDTH)))


def test_hard_negatives_are_classes_of_every_image_and_of_no_text():
    hard = np.asarray(np.random.default_rng(3).normal(size=(PAIRS, WIDTH)), np.float32)
    hard /= np.linalg.norm(hard, axis=1, keepdims=True)
    there = np.array([1, 1, 0, 1, 0, 1, 1, 1], np.float32)
    batch = {**feed(), "negatives": {"x": jnp.asarray(hard), "weights": jnp.asarray(there)}}
    found = term(hard_negatives(passing, TOWER, width=WIDTH), batch, log_scale=math.log(7.0))
    among = np.concatenate([TEXT, hard[there > 0]])
    forth, back = 7.0 * IMAGE @ among.T, 7.0 * TEXT @ IMAGE.T
    expected = [np.log(np.exp(one).sum(axis=1)).mean() - np.diag(one[:, :PAIRS]).mean() for one in (forth, back)]
    np.testing.assert_allclose(found["multimodal.hard_negatives"], np.mean(expected), rtol=1e-5)


def test_a_hard_negative_that_is_missing_is_named():
    with pytest.raises(KeyError, match="needs the negatives of each pair under 'negatives'"):
        term(hard_negatives(passing, TOWER, width=WIDTH))


@pytest.mark.parametrize(("reduce", "symmetric"), (("sum", False), ("mean", True)))
def test_late_interaction_equals_loops_over_tokens(reduce, symmetric):
    rng = np.random.default_rng(4)
    sides = [rng.normal(size=(4, time, WIDTH)).astype(np.float32) for time in (5, 3)]
    lengths = [np.array([5, 2, 4, 1]), np.array([3, 3, 1, 2])]
    parts = [
        {"x": jnp.asarray(side), "attention_mask": jnp.asarray(np.arange(side.shape[1]) < length[:, None], jnp.int32)}
        for side, length in zip(sides, lengths, strict=True)
    ]
    method = late_interaction(passing, TOWER, width=WIDTH, reduce=reduce, symmetric=symmetric, temperature=0.5)
    found = term(method, {**parts[0], "paired": parts[1]})["multimodal.late_interaction"]

    def scores(a, b):
        out = np.zeros((4, 4))
        for i in range(4):
            for j in range(4):
                best = [
                    max(
                        float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
                        for y in sides[b][j][: lengths[b][j]]
                    )
                    for x in sides[a][i][: lengths[a][i]]
                ]  # fmt: skip
                out[i, j] = sum(best) / (len(best) if reduce == "mean" else 1)
        return out / 0.5

    directions = [scores(0, 1)] + ([scores(1, 0)] if symmetric else [])
    expected = np.mean([np.log(np.exp(one).sum(axis=1)).mean() - np.diag(one).mean() for one in directions])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_late_interaction_refuses_one_vector_an_example():
    with pytest.raises(ValueError, match="compares tokens, and a tower gives one vector an example"):
        term(late_interaction(passing, TOWER, width=WIDTH))


def test_binding_compares_those_that_have_the_modality_alone():
    there = np.array([1, 0, 1, 1, 0, 1, 1, 0], np.float32)
    method = bind({"audio": Tower(passing, TOWER, WIDTH), "depth": Tower(passing, TOWER, WIDTH)}, width=WIDTH)
    program = make_step(forward(passing), optax.sgd(1.0), method)
    state = program.init({"shift": jnp.zeros(WIDTH)}, jax.random.key(0))
    own = state.params["multimodal.bind"]
    straight = {**own, "projection": {"kernel": jnp.eye(WIDTH)}}
    straight["modalities"] = {
        name: {**one, "projection": {"kernel": jnp.eye(WIDTH)}, "log_scale": jnp.float32(math.log(7.0))}
        for name, one in own["modalities"].items()
    }
    state = state.replace(params={**state.params, "multimodal.bind": straight})
    noise = jnp.where(there[:, None] > 0, TEXT, 1e3 * IMAGE[::-1])
    batch = {
        "x": jnp.asarray(IMAGE),
        "audio": {"x": noise, "present": jnp.asarray(there)},
        "depth": {"x": jnp.asarray(TEXT)},
    }
    metrics = program.step(state, batch)[1]
    kept = there > 0
    np.testing.assert_allclose(
        metrics["multimodal.bind/audio"], contrastive(jnp.asarray(IMAGE[kept]), jnp.asarray(TEXT[kept]), 7.0), rtol=1e-5
    )
    np.testing.assert_allclose(metrics["multimodal.bind/depth"], GOLDEN["clip/loss"], rtol=1e-5)
    with pytest.raises(KeyError, match="binds audio, depth, and the batch has x"):
        program.step(state, {"x": jnp.asarray(IMAGE)})


def test_modalities_are_dropped_at_their_rate_and_never_all_of_an_example():
    method = modality_dropout(("a", "b"), rate=0.6)
    rows = 4000
    had = jnp.asarray(np.random.default_rng(0).random(rows) < 0.5, jnp.float32)
    batch = {
        "x": jnp.zeros((rows, WIDTH)),
        "a": {"x": jnp.zeros((rows, 1)), "present": had},
        "b": {"x": jnp.zeros((rows, 1))},
    }
    context = SimpleNamespace(
        train=True, hyper={method.name: {"rate": jnp.float32(0.6)}},
        keys_for=lambda name, batch: jax.random.split(jax.random.key(1), rows),
    )  # fmt: skip
    _, left = method.prepare(None, batch, context)
    a, b = (np.asarray(left[name]["present"]) for name in "ab")
    assert ((a + b) > 0).all() and (a <= had).all() and (b[np.asarray(had) == 0] == 1).all()
    both = np.asarray(had) == 1
    # Of those that had both: kept both where neither fell (0.16) or both would have (0.36).
    assert abs((a[both] + b[both] == 2).mean() - 0.52) < 0.04
    context.train = False
    assert method.prepare(None, batch, context)[1] is batch


def test_temperature_holds_the_scale_of_a_model_of_two_towers():
    def apply(params, batch, key):
        return Outputs(hidden=batch["x"] * jnp.exp(params["log_scale"]), unembedding=jnp.eye(WIDTH))

    program = make_step(supervised(apply), optax.sgd(50.0), temperature())
    state = program.init({"log_scale": jnp.float32(4.0)}, jax.random.key(0))
    batch = {"x": jnp.eye(WIDTH), "labels": jnp.arange(WIDTH)[::-1]}
    flipped = make_step(supervised(apply), optax.sgd(-50.0), temperature())
    up, _ = flipped.step(state, batch)
    np.testing.assert_allclose(jnp.exp(up.params["model"]["log_scale"]), 100.0, rtol=1e-5)
    down, _ = program.step(up, batch)
    assert down.params["model"]["log_scale"] < up.params["model"]["log_scale"]
