"""Whisper and its front end give what transformers gives (recorded by tests/golden/record_audio.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny_checkpoints import GOLDEN, assert_gradients_equal, assert_round_trip, recorded

from ft_jax import models
from ft_jax.models.networks.log_mel import mel_filters


@pytest.fixture(scope="module")
def sounds():
    with np.load(GOLDEN / "log_mel.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def case():
    return recorded("tiny_whisper")


def run(model, batch, key=None):
    return jax.jit(model.apply)(model.params, batch, key)


@pytest.mark.parametrize("bins", [8, 80, 128])
def test_log_mel_spectra_equal_the_reference(sounds, bins):
    np.testing.assert_allclose(mel_filters(bins)[::7], sounds[f"filters/{bins}"], atol=1e-7)
    audio = np.stack([np.pad(sounds[name], (0, 16000 - len(sounds[name]))) for name in ("chirp", "noise")])
    got = models.log_mel(audio, bins, 16000)
    # Eight decades below the loudest, the reference's float64 and this float32 differ in the fifth digit.
    np.testing.assert_allclose(got if bins == 8 else got[:, :, ::9], sounds[f"features/{bins}"], atol=5e-5)


def test_sounds_are_cut_or_filled_up(sounds):
    noise = sounds["noise"][None]
    np.testing.assert_allclose(
        models.log_mel(noise, 8, 16000), models.log_mel(np.pad(noise, ((0, 0), (0, 7000))), 8), atol=1e-6
    )
    assert models.log_mel(noise, 8, 4000).shape == (1, 8, 25)
    with pytest.raises(ValueError, match="audio has 100 samples and a window takes 400"):
        models.log_mel(np.zeros((1, 100)))


def test_encoder_and_logits_equal_the_reference(case):
    outputs = run(case.model, case.batch())
    np.testing.assert_allclose(outputs.states["encoder"], case.output("encoder"), atol=2e-5)
    np.testing.assert_allclose(outputs.logits, case.output("logits"), atol=2e-5)


def test_gradients_equal_the_reference(case):
    assert_gradients_equal(case, lambda params: case.model.apply(params, case.batch()).logits)


def test_sound_gives_what_its_spectra_give(case, sounds):
    audio = np.stack([np.pad(sounds[name], (0, 16000 - len(sounds[name]))) for name in ("chirp", "noise")])
    batch = {"audio": audio, "labels": case.batch()["labels"]}
    np.testing.assert_allclose(run(case.model, batch).logits, case.output("logits"), atol=1e-4)


def test_greedy_transcriptions_equal_the_reference(case):
    start = jnp.tile(jnp.array([[1, 5]]), (2, 1))
    batch = {"input_features": case.batch()["input_features"], "decoder_input_ids": start}
    got = models.generate_from(case.model, case.model.params, batch, max_new_tokens=10, stop_tokens=())
    np.testing.assert_array_equal(got.tokens, case.arrays["greedy"])


def test_a_round_trip_is_bitwise_the_published_file(case, tmp_path):
    assert_round_trip(case, tmp_path / "saved")


def test_packed_texts_of_one_sound_equal_separate_ones(case):
    features, labels = case.batch()["input_features"][:1], case.batch()["labels"]
    packed = {
        "labels": jnp.concatenate([labels[:1, :4], labels[1:, :5]], axis=1),
        "decoder_segment_ids": jnp.array([[1] * 4 + [2] * 5]),
    }
    together = run(case.model, {"input_features": features, **packed}).logits
    alone = [run(case.model, {"input_features": features, "labels": labels[i : i + 1, : 4 + i]}).logits for i in (0, 1)]
    np.testing.assert_allclose(together, jnp.concatenate(alone, axis=1), atol=2e-5)


def test_states_and_half_precision(case):
    half = case.model.configure(dtype="bfloat16", collect=("hidden", "attention"), remat="full")
    outputs = run(half, case.batch())
    assert outputs.hidden.dtype == jnp.bfloat16
    assert outputs.states["decoder/cross_attention/1"].shape == (2, 4, 9, 50)
    assert {"encoder/layers/1", "encoder/attention/0", "decoder/layers/0", "decoder/attention/1"} <= set(outputs.states)
    assert np.linalg.norm(outputs.logits - case.output("logits")) < 0.05 * np.linalg.norm(case.output("logits"))


def test_bad_batches_are_refused_in_one_sentence(case):
    params, batch = case.model.params, case.batch()
    with pytest.raises(KeyError, match="batch has no 'input_features' or 'audio'"):
        case.model.apply(params, {"labels": batch["labels"]})
    with pytest.raises(KeyError, match="batch has no 'decoder_input_ids'"):
        case.model.apply(params, {"input_features": batch["input_features"]})
    with pytest.raises(
        ValueError, match=r"input_features has shape \(2, 8, 90\) and the model takes \[batch, 8, 100\]"
    ):
        case.model.apply(params, batch | {"input_features": batch["input_features"][:, :, :90]})
    with pytest.raises(ValueError, match="decoder_input_ids has 25 tokens a sequence and the model takes 24"):
        case.model.apply(params, batch | {"decoder_input_ids": jnp.ones((2, 25), jnp.int32)})
    with pytest.raises(ValueError, match="1 tokens and 30 new ones exceed the 24"):
        models.generate_from(case.model, params, batch, max_new_tokens=30)
