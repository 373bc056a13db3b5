"""Encoders equal transformers (recorded by tests/golden/record_encoders.py) and keep what every model promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny_checkpoints import assert_gradients_equal, assert_round_trip, recorded

from ft_jax import models
from ft_jax.core.params import map_with_path

NAMES = ["tiny_bert_lm", "tiny_roberta", "tiny_distilbert", "tiny_modernbert"]
IDS = jax.random.randint(jax.random.key(1), (2, 12), 4, 64)


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    return recorded(request.param)


def run(model, batch, key=None):
    return jax.jit(model.apply)(model.params, batch, key)


def test_hidden_states_and_logits_equal_the_reference(case):
    outputs, real = (
        run(case.model.configure(collect=("hidden",)), case.batch()),
        case.arrays["input/attention_mask"] > 0,
    )
    last = case.model.config.layers - 1
    for i in range(last + 1):
        want = case.output(f"hidden/{i + 1}")
        got = outputs.states[f"layers/{i}"]
        if i == last and isinstance(case.model.config, models.ModernEncoderConfig):
            continue  # transformers normalises the last of ModernBERT's hidden states, the logits are made of it
        np.testing.assert_allclose(np.asarray(got)[real], want[real], atol=2e-5)
    np.testing.assert_allclose(np.asarray(outputs.logits)[real], case.output("logits")[real], atol=2e-5)


def test_gradients_equal_the_reference(case):
    assert_gradients_equal(case, lambda params: case.model.apply(params, case.batch()).logits)


def test_a_round_trip_is_bitwise_the_published_file(case, tmp_path):
    assert_round_trip(case, tmp_path / "saved")


@pytest.mark.parametrize("name", ["tiny_roberta", "tiny_modernbert"])
def test_packed_equals_separate(name):
    model = recorded(name).model
    first, second = IDS[:1, :6], IDS[1:, :6]
    packed = jnp.concatenate([first, second, jnp.zeros((1, 3), IDS.dtype)], axis=1)
    segments = jnp.array([[1] * 6 + [2] * 6 + [0] * 3])
    hidden = run(model, {"input_ids": packed, "segment_ids": segments}).hidden
    alone = run(model, {"input_ids": IDS[:, :6]}).hidden
    np.testing.assert_allclose(hidden[0, :12], alone.reshape(12, -1), atol=1e-5)


@pytest.fixture(scope="module")
def modern():
    return recorded("tiny_modernbert")


def test_half_precision_is_near(modern):
    real = modern.arrays["input/attention_mask"][..., None]
    half = run(modern.model.configure(dtype="bfloat16"), modern.batch())
    assert half.hidden.dtype == jnp.bfloat16 and half.logits.dtype == jnp.float32
    wanted = modern.output("logits") * real
    assert np.linalg.norm(half.logits * real - wanted) < 0.05 * np.linalg.norm(wanted)


def test_rematerialising_changes_no_gradient(modern):
    real, probe = modern.arrays["input/attention_mask"][..., None], modern.arrays["probe"]

    def gradient(model):
        def loss(params):
            return (model.apply(params, modern.batch()).logits * real * probe).sum()

        return jax.jit(jax.grad(loss))(model.params)

    plain, again = gradient(modern.model), gradient(modern.model.configure(remat="full"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, again)


def test_dropout_is_on_with_a_key_alone(modern):
    noisy, batch = modern.model.configure(dropout=0.3, attention_dropout=0.1), {"input_ids": IDS}
    one, same, other = (run(noisy, batch, jax.random.key(k)).hidden for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    np.testing.assert_allclose(run(noisy, batch).hidden, run(modern.model, batch).hidden, atol=1e-6)


def test_a_local_layer_sees_its_window_alone(modern):
    model = modern.model.configure(collect=("attention",))
    maps = run(model, {"input_ids": jax.random.randint(jax.random.key(2), (1, 16), 4, 64)}).states
    np.testing.assert_allclose(maps["attention/1"].sum(axis=-1), np.ones((1, 4, 16)), atol=1e-5)
    distance = np.abs(np.arange(16)[:, None] - np.arange(16)[None])
    assert float(jnp.where(distance > 4, maps["attention/1"], 0.0).max()) == 0.0
    assert float(jnp.where(distance == 4, maps["attention/1"], 0.0).max()) > 0.0
    assert float(jnp.where(distance > 4, maps["attention/0"], 0.0).max()) > 0.0


def test_a_sequence_longer_than_the_model_takes_is_refused():
    for name, longest in (("tiny_roberta", 22), ("tiny_distilbert", 24), ("tiny_modernbert", 64)):
        model = recorded(name).model
        with pytest.raises(ValueError, match=f"{longest + 1} tokens a sequence and the model takes {longest}"):
            model.apply(model.params, {"input_ids": jnp.ones((1, longest + 1), jnp.int32)})


def test_the_prediction_layers_are_passed_over_by_other_heads():
    case = recorded("tiny_bert_lm")
    other = models.with_head(case.model, "token_classification", jax.random.key(0), outputs=3)
    changed = map_with_path(lambda path, x: x + 1 if path.startswith("prediction/") else x, other.params)
    np.testing.assert_array_equal(
        other.apply(other.params, case.batch()).logits, other.apply(changed, case.batch()).logits
    )
