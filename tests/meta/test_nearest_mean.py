import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.core import Outputs, make_step, supervised
from ft_jax.meta import prototypical, simple_shot

WAYS, SHOTS, QUERIES, WIDTH, TASKS = 3, 2, 4, 5, 2
KEY = jax.random.key(0)


def apply(params, batch, key=None):
    return Outputs(hidden=jnp.tanh(batch["x"] @ params["w"]), unembedding=params["head"])


def params():
    first, second = jax.random.split(KEY)
    return {"w": jax.random.normal(first, (4, WIDTH)), "head": jax.random.normal(second, (WIDTH, WAYS))}


def batch():
    keys = jax.random.split(jax.random.key(1), 2)

    def part(key, each):
        labels = jnp.tile(jnp.repeat(jnp.arange(WAYS), each), (TASKS, 1))
        return {"x": jax.random.normal(key, (TASKS, WAYS * each, 4)) + labels[..., None], "labels": labels}

    return {"support": part(keys[0], SHOTS), "query": part(keys[1], QUERIES)}


def classes_and_loss(features, support, query):
    """The slow way: every distance of every query example, task by task."""
    chosen, losses = [], []
    for task in range(TASKS):
        own, labels = np.asarray(features(support["x"][task])), np.asarray(support["labels"][task])
        centres = np.stack([own[labels == k].mean(0) for k in range(WAYS)])
        for x, label in zip(np.asarray(features(query["x"][task])), np.asarray(query["labels"][task]), strict=True):
            scores = -np.array([np.sum((x - c) ** 2) for c in centres], np.float64)
            chosen.append(scores.argmax())
            losses.append(np.log(np.exp(scores).sum()) - scores[label])
    return np.array(chosen), np.mean(losses)


def test_prototypes_give_the_classes_and_the_loss_of_all_distances():
    program = make_step(supervised(apply), optax.sgd(0.1), prototypical())
    state = program.init(params(), KEY)
    found = program.evaluate(state, batch())
    chosen, loss = classes_and_loss(lambda x: np.tanh(x @ params()["w"]), batch()["support"], batch()["query"])
    np.testing.assert_allclose(found.terms["meta.prototypical"], loss, rtol=1e-5)
    assert set(found.terms) == {"meta.prototypical"}
    np.testing.assert_array_equal(found.predictions.argmax(-1), chosen)


def test_prototypes_learn_features_and_no_head():
    program = make_step(supervised(apply), optax.sgd(0.1), prototypical())
    state = program.init(params(), KEY)
    step = jax.jit(program.step)
    after, first = step(state, batch())
    for _ in range(20):
        after, last = step(after, batch())
    assert last["loss"] < first["loss"]
    np.testing.assert_array_equal(after.params["model"]["head"], params()["head"])


def test_a_class_without_support_is_never_chosen():
    few = batch()
    few["support"] = {**few["support"], "labels": jnp.zeros_like(few["support"]["labels"])}
    program = make_step(supervised(apply), optax.sgd(0.1), prototypical())
    assert not program.evaluate(program.init(params(), KEY), few).predictions.argmax(-1).any()


def centred(middle):
    def features(x):
        moved = np.tanh(x @ params()["w"]) - middle
        return moved / np.linalg.norm(moved, axis=1, keepdims=True)

    return features


@pytest.mark.parametrize("trained", [False, True], ids=["before a task has ended", "after"])
def test_features_are_centred_by_the_training_examples_and_of_length_one(trained):
    examples = {"x": jax.random.normal(jax.random.key(5), (6, 4)), "labels": jnp.zeros(6, int)}
    method = simple_shot(apply, params(), examples)
    program = make_step(supervised(apply), optax.sgd(0.1), method)
    state = program.init(params(), KEY)
    parts, chosen, losses = batch(), [], []
    if trained:
        state = program.after_task(state, jax.tree.map(lambda x: x.reshape(3, 2, *x.shape[1:]), examples))
        whole = np.tanh(examples["x"] @ params()["w"]).mean(0)
    for task in range(TASKS):
        middle = whole if trained else np.tanh(parts["support"]["x"][task] @ params()["w"]).mean(0)
        alone = {part: jax.tree.map(lambda x: jnp.stack([x[task]] * TASKS), parts[part]) for part in parts}  # noqa: B023
        own, loss = classes_and_loss(centred(middle), alone["support"], alone["query"])
        chosen.append(own[: len(own) // TASKS])
        losses.append(loss)
    found = program.evaluate(state, parts)
    np.testing.assert_array_equal(found.predictions.argmax(-1), np.concatenate(chosen))
    np.testing.assert_allclose(found.terms["meta.simple_shot"], np.mean(losses), rtol=1e-4)


def test_what_lacks_classes_is_refused_in_a_sentence():
    program = make_step(supervised(apply), optax.sgd(0.1), prototypical(field="kind"))
    with pytest.raises(KeyError, match="reads each example's class from 'kind', but the support has labels, x"):
        program.evaluate(program.init(params(), KEY), batch())
