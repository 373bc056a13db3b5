import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from attention.tiny import BATCH, DECODER, ENCODER, MASK, started, trained

from ft_jax import attention
from ft_jax.attention.guidance import _between, _gap, asked_queries
from ft_jax.core import compose, make_step, supervised
from ft_jax.models import tiny_encoder, with_classifier

RATIONALES = jnp.array(
    [[0, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0], [0] * 8], jnp.float32
)
CLASSIFIER = with_classifier(tiny_encoder(jax.random.key(0)), 2, jax.random.key(1))
EXAMPLES = {
    "input_ids": BATCH["input_ids"],
    "attention_mask": MASK,
    "labels": jnp.array([0, 1, 1, 0]),
    "rationales": RATIONALES,
}


def test_supervision_is_the_divergence_written_out():
    maps = jax.nn.softmax(jax.random.normal(jax.random.key(0), (4, 2, 8, 8)))
    found = jnp.mean(_gap(maps, RATIONALES, MASK.astype(jnp.float32)))
    expected = []
    for row in range(3):
        target = np.asarray(RATIONALES[row] / RATIONALES[row].sum())
        each = [
            sum(t * np.log(t / maps[row, head, query, at]) for at, t in enumerate(target) if t)
            for head in range(2)
            for query in range(int(MASK[row].sum()))
        ]
        expected.append(np.mean(each))
    np.testing.assert_allclose(found, sum(expected) / 4, rtol=1e-5)


def test_a_causal_query_is_asked_for_what_it_sees():
    even = jnp.tril(jnp.ones((1, 1, 3, 3))) / jnp.arange(1, 4)[:, None]
    found = _gap(even, jnp.array([[0.0, 1.0, 0.0]]), jnp.ones((1, 3)))
    np.testing.assert_allclose(found, (np.log(2) + np.log(3)) / 2, rtol=1e-6)


def test_queries_are_all_the_first_or_the_last_real_token():
    real = jnp.array([[0.0, 1.0, 1.0, 0.0]])
    assert asked_queries(real, "all").tolist() == [[0, 1, 1, 0]]
    assert asked_queries(real, "first").tolist() == [[0, 1, 0, 0]]
    assert asked_queries(real, "last").tolist() == [[0, 0, 1, 0]]


def test_guided_maps_move_to_the_rationales():
    method = attention.supervision(weight=1.0, queries="first")
    _, history = trained(method, CLASSIFIER, steps=40, batch=EXAMPLES, rate=0.5)
    assert history[-1][method.name] < 0.4 * history[0][method.name]


def test_a_prefix_is_no_part_of_the_rationale():
    method = compose(attention.supervision(), attention.prefix_tuning(3))
    _, history = trained(method, CLASSIFIER, steps=1, batch=EXAMPLES)
    assert np.isfinite(history[0]["attention.supervision"])


def test_missing_rationales_are_refused_in_training_and_left_out_in_evaluation():
    method = attention.supervision()
    plain = {field: x for field, x in EXAMPLES.items() if field != "rationales"}
    program = make_step(supervised(CLASSIFIER.apply), optax.sgd(0.1), method)
    state, _ = started(method, CLASSIFIER)
    with pytest.raises(
        KeyError, match=r"reads 'rationales' \[batch, time\], and the batch has attention_mask, input_ids"
    ):
        jax.eval_shape(program.step, state, plain)
    assert set(jax.eval_shape(program.evaluate, state, plain)[0]) == {"task"}


@pytest.mark.parametrize("method", ["supervision", "token_weighting"])
def test_outputs_without_maps_are_refused_with_the_remedy(method):
    made = getattr(attention, method)()
    blind = lambda params, batch, key: DECODER.apply(params, batch, key)  # noqa: E731
    program = make_step(supervised(blind), optax.sgd(0.1), made)
    state, _ = started(made)
    with pytest.raises(ValueError, match="give the loss the apply of a model that can collect them"):
        jax.eval_shape(program.step, state, {**BATCH, "rationales": BATCH["weights"]})


def test_layers_that_are_not_there_are_refused():
    made = attention.supervision(layers=(5,))
    program = make_step(supervised(DECODER.apply), optax.sgd(0.1), made)
    state, _ = started(made)
    with pytest.raises(ValueError, match=r"attention map of layer 5, and the model has those of \[0, 1\]"):
        jax.eval_shape(program.step, state, {**BATCH, "rationales": BATCH["weights"]})


@pytest.mark.parametrize("distance", ["kl", "normalised"])
def test_a_students_maps_move_to_the_teachers(distance):
    teacher = tiny_encoder(jax.random.key(7))
    method = attention.transfer(teacher.apply, teacher.params, weight=5.0, layers=(0, 1), distance=distance)
    state, history = trained(method, CLASSIFIER, steps=40, batch=EXAMPLES, rate=0.2)
    assert history[-1][method.name] < 0.7 * history[0][method.name]
    assert not jax.tree.leaves(state.params.get(method.name, {}))


def test_transfer_from_itself_costs_nothing():
    for distance in ("kl", "normalised"):
        method = attention.transfer(ENCODER.apply, ENCODER.params, distance=distance)
        _, history = trained(method, ENCODER, steps=1)
        np.testing.assert_allclose(history[0][method.name], 0.0, atol=1e-6)


def test_normalised_transfer_is_the_distance_of_unit_vectors():
    own, wanted = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, 1, 3, 4, 4)))
    flat = [np.asarray(maps.mean(1)).reshape(-1) for maps in (own, wanted)]
    expected = np.linalg.norm(flat[0] / np.linalg.norm(flat[0]) - flat[1] / np.linalg.norm(flat[1])) / 2
    np.testing.assert_allclose(_between(own, wanted, jnp.ones((1, 4)), "normalised", "x"), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: attention.supervision(queries="middle"), "queries 'middle'; use 'all', 'first' or 'last'"),
        (lambda: attention.transfer(ENCODER.apply, {}, distance="l2"), "distance 'l2'; use 'kl' or 'normalised'"),
        (lambda: attention.transfer(ENCODER.apply, {}, teacher_layers=(0, 1)), "pairs 1 layers with 2 of the teacher"),
        (
            lambda: _between(jnp.ones((1, 2, 3, 3)), jnp.ones((1, 4, 3, 3)), jnp.ones((1, 3)), "kl", "transfer"),
            "use distance='normalised' or a teacher with as many heads",
        ),
    ],
)
def test_bad_options_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
