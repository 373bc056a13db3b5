import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax.core import make_step, supervised
from ft_jax.data.teacher_cache import IDS, VALUES
from ft_jax.distillation import cached_logits, logits
from ft_jax.distillation.cached_logits import bucket_divergence
from ft_jax.testing.problem import VOCABULARY, problem
from ft_jax.training.caching import likeliest


def given(top):
    tiny = problem()
    teacher = jax.tree.map(lambda leaf: 1.3 * leaf, tiny.params)
    ids, values = jax.jit(lambda params, batch: likeliest(tiny.apply, top, params, batch))(teacher, tiny.batch)
    return tiny, teacher, {**tiny.batch, IDS: ids, VALUES: values}


def after_a_step(method, batch):
    tiny = problem()
    program = make_step(supervised(tiny.apply), optax.sgd(0.1), method)
    state, metrics = jax.jit(program.step)(program.init(tiny.params, jax.random.key(0)), batch)
    return state.params["model"], metrics[method.name]


@pytest.mark.parametrize("tail", ["bucket", "renormalised"])
def test_all_classes_stored_are_the_live_teacher(tail):
    tiny, teacher, batch = given(VOCABULARY)
    ours, stored = after_a_step(cached_logits(0.7, hard_weight=0.5, tail=tail), batch)
    theirs, live = after_a_step(logits(tiny.apply, teacher, 0.7, temperature=1.0, hard_weight=0.5), batch)
    np.testing.assert_allclose(stored, live, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_what_is_stored_is_the_largest_of_the_teacher_and_the_mass_of_the_rest():
    tiny, teacher, batch = given(5)
    whole = np.asarray(jax.nn.softmax(tiny.apply(teacher, tiny.batch, None).logits), np.float64)
    best = np.sort(whole, axis=-1)[..., ::-1][..., :5]
    np.testing.assert_allclose(np.exp(batch[VALUES][..., :-1]), best, rtol=1e-5)
    np.testing.assert_allclose(np.exp(batch[VALUES][..., -1]), 1 - best.sum(-1), rtol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(whole, np.asarray(batch[IDS]), -1), best, rtol=1e-5)


def test_the_bucket_is_the_papers_divergence_over_classes_that_are_put_together():
    draw = np.random.default_rng(0)
    own, p = draw.normal(size=(4, 9)), draw.dirichlet(np.ones(9), 4)
    q = np.exp(own) / np.exp(own).sum(-1, keepdims=True)
    ids = np.argsort(-p, -1)[:, :3]
    joined = [
        np.concatenate([np.take_along_axis(x, ids, -1), 1 - np.take_along_axis(x, ids, -1).sum(-1)[:, None]], -1)
        for x in (p, q)
    ]
    expected = (joined[0] * np.log(joined[0] / joined[1])).sum(-1)
    stored = (jnp.asarray(ids), jnp.log(jnp.asarray(joined[0], jnp.float32)))
    found = bucket_divergence(jnp.asarray(own, jnp.float32), (), {}, stored)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    whole = (p * np.log(p / q)).sum(-1)
    assert (found <= whole + 1e-6).all()


def test_the_renormalised_is_over_the_stored_classes_alone():
    _, _, batch = given(4)
    tiny = problem()
    own = jax.nn.log_softmax(jnp.take_along_axis(tiny.apply(tiny.params, tiny.batch, None).logits, batch[IDS], -1) / 2)
    theirs = jax.nn.log_softmax(batch[VALUES][..., :-1] / 2)
    rows = 4 * jnp.sum(jnp.exp(theirs) * (theirs - own), -1)
    expected = jnp.sum(rows * tiny.batch["weights"]) / jnp.sum(tiny.batch["weights"])
    _, found = after_a_step(cached_logits(temperature=2.0, tail="renormalised"), batch)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_student_that_gives_all_to_the_support_has_finite_gradients():
    ids, values = jnp.array([[0, 1]]), jnp.log(jnp.array([[0.6, 0.3, 0.1]]))
    own = jnp.array([[80.0, 80.0, -80.0, -80.0]])
    value, gradient = jax.value_and_grad(lambda own: bucket_divergence(own, (), {}, (ids, values))[0])(own)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_wrong_numbers_and_a_batch_without_a_teacher_are_refused():
    with pytest.raises(ValueError, match="temperature 2.0 and tail 'bucket'"):
        cached_logits(temperature=2.0)
    with pytest.raises(ValueError, match="no tail 'rest'"):
        cached_logits(tail="rest")
    with pytest.raises(KeyError, match="ft-jax cache-teacher"):
        after_a_step(cached_logits(), problem().batch)
