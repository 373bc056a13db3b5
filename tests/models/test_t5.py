"""T5 gives what transformers gives (recorded by tests/golden/record_encoders.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny_checkpoints import assert_gradients_equal, assert_round_trip, recorded

from ft_jax import models
from ft_jax.core.batches import shares

IDS = jax.random.randint(jax.random.key(1), (2, 9), 4, 64)
LABELS = jax.random.randint(jax.random.key(2), (2, 7), 4, 64)


@pytest.fixture(scope="module", params=["tiny_t5", "tiny_t5_gated"])
def case(request):
    return recorded(request.param)


def run(model, batch, key=None):
    return jax.jit(model.apply)(model.params, batch, key)


def test_hidden_states_and_logits_equal_the_reference(case):
    outputs = run(case.model.configure(collect=("hidden",)), case.batch())
    real = case.arrays["input/attention_mask"] > 0
    np.testing.assert_allclose(np.asarray(outputs.states["encoder"])[real], case.output("encoder")[real], atol=2e-5)
    np.testing.assert_allclose(outputs.states["decoder/layers/0"], case.output("decoder/1"), atol=2e-5)
    np.testing.assert_allclose(outputs.logits, case.output("logits"), atol=2e-5)


def test_gradients_equal_the_reference(case):
    assert_gradients_equal(case, lambda params: case.model.apply(params, case.batch()).logits)


def test_greedy_answers_equal_the_reference(case):
    batch = case.batch()
    got = models.generate_from(case.model, case.model.params, batch, max_new_tokens=12, stop_tokens=())
    np.testing.assert_array_equal(got.tokens, case.arrays["greedy"])
    stop = int(case.arrays["greedy"][0, 3])
    ended = models.generate_from(case.model, case.model.params, batch, max_new_tokens=12, stop_tokens=(stop,))
    first = list(case.arrays["greedy"][0]).index(stop)
    assert ended.lengths[0] == first + 1 and not np.asarray(ended.tokens)[0, first + 1 :].any()


def test_an_answer_goes_on_from_a_given_beginning():
    case = recorded("tiny_t5")
    batch, greedy = case.batch(), case.arrays["greedy"]
    begun = jnp.concatenate([jnp.zeros((3, 1), jnp.int32), greedy[:, :4]], axis=1)
    got = models.generate_from(
        case.model, case.model.params, batch | {"decoder_input_ids": begun}, max_new_tokens=8, stop_tokens=()
    )
    np.testing.assert_array_equal(got.tokens, greedy[:, 4:])


def test_a_round_trip_is_bitwise_the_published_file(case, tmp_path):
    assert_round_trip(case, tmp_path / "saved")


def test_an_unembedding_of_its_own_makes_the_round_trip(tmp_path):
    config = models.T5Config(32, 8, 2, 1, 2, 4, 12, tied=False, scaled=False, gated=True, activation="gelu_tanh")
    model = models.build(config, jax.random.key(0))
    models.save(model, model.params, tmp_path / "saved")
    again = models.load(tmp_path / "saved", tokenizer=False)
    assert again.config == config
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_packed_equals_separate():
    model = recorded("tiny_t5").model
    ids = jnp.concatenate([IDS[:1, :5], IDS[1:, :6], jnp.zeros((1, 2), jnp.int32)], axis=1)
    labels = jnp.concatenate([LABELS[:1, :4], LABELS[1:, :5], jnp.zeros((1, 1), jnp.int32)], axis=1)
    segments = {
        "segment_ids": jnp.array([[1] * 5 + [2] * 6 + [0] * 2]),
        "decoder_segment_ids": jnp.array([[1] * 4 + [2] * 5 + [0]]),
    }
    packed = run(model, {"input_ids": ids, "labels": labels, **segments}).logits[:, :9]
    alone = [
        run(model, {"input_ids": IDS[i : i + 1, : 5 + i], "labels": LABELS[i : i + 1, : 4 + i]}).logits for i in (0, 1)
    ]
    np.testing.assert_allclose(packed, jnp.concatenate(alone, axis=1), atol=1e-5)


def test_attention_maps_dropout_and_rematerialising():
    model = recorded("tiny_t5").model.configure(collect=("hidden", "attention"))
    batch = {"input_ids": IDS, "labels": LABELS}
    outputs = run(model, batch)
    assert outputs.states["decoder/cross_attention/1"].shape == (2, 4, 7, 9)
    for name in ("encoder/attention/0", "decoder/attention/1", "decoder/cross_attention/1"):
        maps = outputs.states[name]
        np.testing.assert_allclose(maps.sum(axis=-1), np.ones(maps.shape[:-1]), atol=1e-5)
    noisy = [run(model, batch, jax.random.key(k)).hidden for k in (0, 0, 1)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert not np.allclose(noisy[0], noisy[2]) and not np.allclose(noisy[0], outputs.hidden)

    def gradient(model):
        return jax.jit(jax.grad(lambda params: jnp.square(model.apply(params, batch).hidden).sum()))(model.params)

    plain, again = gradient(model), gradient(model.configure(remat="dots"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, again)


def test_half_precision_is_near():
    case = recorded("tiny_t5_gated")
    half = run(case.model.configure(dtype="bfloat16"), case.batch())
    assert half.hidden.dtype == jnp.bfloat16 and half.logits.dtype == jnp.float32
    assert np.linalg.norm(half.logits - case.output("logits")) < 0.08 * np.linalg.norm(case.output("logits"))


def test_labels_are_the_decoders_inputs_a_place_later():
    model = recorded("tiny_t5").model
    shifted = jnp.pad(LABELS[:, :-1], ((0, 0), (1, 0)))
    by_labels, by_ids = (
        run(model, {"input_ids": IDS, name: x}).hidden
        for name, x in (("labels", LABELS), ("decoder_input_ids", shifted))
    )
    np.testing.assert_array_equal(by_labels, by_ids)


def test_the_loss_takes_the_labels_as_they_are():
    model, batch = recorded("tiny_t5").model, {"input_ids": IDS, "labels": LABELS}
    logits = jax.eval_shape(lambda params: model.apply(params, batch).logits, model.params)
    assert shares(batch, LABELS.shape).shape == logits.shape[:-1] == LABELS.shape


def test_a_batch_without_a_decoder_side_is_refused():
    model = recorded("tiny_t5").model
    with pytest.raises(KeyError, match="batch has no 'decoder_input_ids'"):
        model.apply(model.params, {"input_ids": IDS})
    encoder = models.tiny_encoder(jax.random.key(0))
    with pytest.raises(ValueError, match="generate_from needs an encoder-decoder or a vision-language model"):
        models.generate_from(encoder, encoder.params, {"input_ids": IDS}, max_new_tokens=2)
