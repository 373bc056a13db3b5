import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ft_jax import adaptive, distillation, transfer
from ft_jax.core import compose, jit_step, make_step, optimizer, parameters, supervised
from ft_jax.core.params import matches, paths
from ft_jax.models import tiny_decoder, tiny_encoder, with_classifier

BACKBONE = tiny_decoder(jax.random.key(0), layers=1)
ENCODER = tiny_encoder(jax.random.key(0), layers=1)
CLASSIFIER = with_classifier(ENCODER, 3, jax.random.key(1))
IDS = jax.random.randint(jax.random.key(2), (12, 8), 0, 32)
LABELLED = {"input_ids": IDS[:4], "labels": jnp.array([0, 2, 1, 0])}
MASKED = IDS[4:].at[:, ::3].set(1)
UNLABELLED = {"input_ids": MASKED, "labels": jnp.where(IDS[4:] != MASKED, IDS[4:], -1)}
BATCH = {**LABELLED, "unlabelled": UNLABELLED}
MLM = transfer.masked_language_modelling(ENCODER.apply)
TASK = supervised(CLASSIFIER.apply)


def sgd(rate=0.1):
    return optimizer(optax.sgd, learning_rate=rate)


def mean_cross_entropy(logits, labels):
    """The obvious version, over the labels that are not negative."""
    log_p = np.asarray(logits, np.float64)
    log_p = log_p - np.log(np.exp(log_p).sum(-1, keepdims=True))
    rows, kept = log_p.reshape(-1, log_p.shape[-1]), np.asarray(labels).reshape(-1)
    return -np.mean([row[label] for row, label in zip(rows, kept, strict=True) if label >= 0])


def test_terms_equal_two_losses_computed_apart():
    method = transfer.joint(MLM, weight=0.3, head_weight=2.0)
    program = make_step(TASK, sgd(), method)
    _, metrics = jax.jit(program.step)(program.init(CLASSIFIER.params, jax.random.key(3)), BATCH)
    task = mean_cross_entropy(CLASSIFIER.apply(CLASSIFIER.params, LABELLED).logits, LABELLED["labels"])
    table = ENCODER.params["embeddings"]["tokens"]
    hidden = ENCODER.apply(ENCODER.params, UNLABELLED).hidden
    backbone = mean_cross_entropy(hidden @ table.T, UNLABELLED["labels"])
    np.testing.assert_allclose(metrics["task"], 2.0 * task, rtol=1e-5)
    np.testing.assert_allclose(metrics["backbone"], 0.3 * backbone, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 2.0 * task + 0.3 * backbone, rtol=1e-5)


def test_one_step_is_the_sum_of_the_steps_of_both_losses():
    def moved(loss, batch, *methods):
        program = make_step(loss, sgd(), compose(*methods))
        state, _ = jax.jit(program.step)(program.init(CLASSIFIER.params, jax.random.key(3)), batch)
        return jax.tree.map(jnp.subtract, state.params["model"], CLASSIFIER.params)

    both = moved(TASK, BATCH, transfer.joint(MLM, weight=0.3, head_weight=2.0, head_rate=5.0))
    task, backbone = moved(TASK, LABELLED), moved(MLM, UNLABELLED)
    for path, a, b, c in zip(paths(both), *map(jax.tree.leaves, (both, task, backbone)), strict=True):
        rate = 5.0 if path.startswith("head/") else 1.0
        np.testing.assert_allclose(a, rate * (2.0 * b + 0.3 * c), rtol=1e-4, atol=1e-6)


def test_the_head_has_its_own_rate_and_nothing_else_does():
    program = make_step(TASK, sgd(), transfer.joint(MLM))
    state, step = program.init(CLASSIFIER.params, jax.random.key(3)), jax.jit(program.step)
    seen = []
    for rate in (1.0, 3.0):
        new, _ = step(state.with_hyper({"transfer.joint.head_rate": rate}), BATCH)
        seen.append(jax.tree.map(jnp.subtract, new.params, state.params))
    for path, slow, fast in zip(paths(seen[0]), *map(jax.tree.leaves, seen), strict=True):
        factor = 3.0 if matches(path, ("*/head/*",)) else 1.0
        np.testing.assert_allclose(fast, factor * slow, rtol=1e-5, atol=1e-6)


def test_the_backbone_has_its_own_rate_and_the_head_keeps_its_own():
    program = make_step(TASK, sgd(), transfer.joint(MLM, head_rate=2.0))
    state, step = program.init(CLASSIFIER.params, jax.random.key(3)), jax.jit(program.step)
    seen = []
    for rate in (1.0, 0.25):
        new, _ = step(state.with_hyper({"transfer.joint.backbone_rate": rate}), BATCH)
        seen.append(jax.tree.map(jnp.subtract, new.params, state.params))
    for path, plain, slow in zip(paths(seen[0]), *map(jax.tree.leaves, seen), strict=True):
        factor = 1.0 if matches(path, ("*/head/*",)) else 0.25
        np.testing.assert_allclose(slow, factor * plain, rtol=1e-5, atol=1e-6)


def test_evaluation_takes_labelled_batches_and_joint_ones():
    program = make_step(TASK, sgd(), transfer.joint(MLM))
    state = program.init(CLASSIFIER.params, jax.random.key(3))
    terms, predictions, _ = jax.jit(program.evaluate)(state, LABELLED)
    assert set(terms) == {"task"} and predictions.shape == (4, 3)
    assert set(jax.jit(program.evaluate)(state, BATCH)[0]) == {"task", "backbone"}


def test_micro_batches_and_ragged_weights_equal_one_batch():
    weights = (jnp.arange(7) < 2 + jnp.arange(12)[:, None] % 5).astype(jnp.float32)
    fields = {"input_ids": IDS[:, :-1], "labels": IDS[:, 1:], "weights": weights}
    batch = {**jax.tree.map(lambda x: x[:4], fields), "unlabelled": jax.tree.map(lambda x: x[4:], fields)}
    method = transfer.joint(transfer.causal_language_modelling(BACKBONE.apply), weight=0.7)
    metrics = []
    for accumulate in (1, 4):
        program = make_step(supervised(BACKBONE.apply), sgd(), method, accumulate=accumulate)
        metrics.append(jax.jit(program.step)(program.init(BACKBONE.params, jax.random.key(3)), batch)[1])
    for name in metrics[0]:
        np.testing.assert_allclose(metrics[0][name], metrics[1][name], rtol=1e-5)


def test_uncertainty_weighs_both_terms():
    method = compose(
        adaptive.uncertainty(("task", "backbone")), transfer.joint(MLM), transfer.lora(2, also=("*/head/*",))
    )
    program = make_step(TASK, sgd(), method)
    state, step = program.init(CLASSIFIER.params, jax.random.key(3)), jit_step(program.step)
    history = []
    for _ in range(30):
        state, metrics = step(state, BATCH)
        history.append(float(metrics["loss"]))
    assert history[-1] < 0.9 * history[0]
    log_variances = parameters(state, method)["adaptive.uncertainty"]
    assert log_variances["task"] != 0 and log_variances["backbone"] != log_variances["task"]


def test_numbers_of_the_backbone_loss_are_the_methods_and_compile_nothing():
    method = transfer.joint(transfer.contrastive(ENCODER.apply, temperature=0.5))
    program = make_step(TASK, sgd(0.0), method)
    state, step = program.init(CLASSIFIER.params, jax.random.key(3)), jit_step(program.step)
    values = []
    for temperature in (0.5, 0.05):
        state, metrics = step(state.with_hyper({"transfer.joint.temperature": temperature}), BATCH)
        values.append(float(metrics["backbone"]))
    assert step.compilations() == 1 and abs(values[0] - values[1]) > 0.1


def test_wrong_batches_and_combinations_are_refused_in_one_sentence():
    def step(batch, *methods):
        program = make_step(TASK, sgd(), compose(*methods))
        return jax.eval_shape(program.step, program.init(CLASSIFIER.params, jax.random.key(3)), batch)

    joint = transfer.joint(MLM)
    with pytest.raises(KeyError, match=r"batch\['unlabelled'\], which the batch lacks \(it has input_ids, labels\)"):
        step(LABELLED, joint)
    with pytest.raises(KeyError, match="masked_language_modelling reads 'labels'.*the original token at masked"):
        step({**LABELLED, "unlabelled": {"input_ids": IDS}}, joint)
    with pytest.raises(ValueError, match="second adds a term 'backbone', which the loss inside it has already"):
        step(BATCH, transfer.joint(MLM, name="second"), joint)
    with pytest.raises(
        ValueError, match="makes the batch examples beside unlabelled ones; name distillation.logits after"
    ):
        compose(distillation.logits(CLASSIFIER.apply, CLASSIFIER.params), joint)
    with pytest.raises(ValueError, match=r"no parameter matches \*/classifier/\*"):
        step(BATCH, transfer.joint(MLM, head_rate=2.0, head=("*/classifier/*",)))
