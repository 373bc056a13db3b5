"""LLaVA and PaliGemma give what transformers gives (recorded by tests/golden/record_vision.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.tiny_checkpoints import assert_gradients_equal, assert_round_trip, recorded

from ft_jax import models


@pytest.fixture(scope="module", params=["tiny_llava", "tiny_paligemma"])
def case(request):
    return recorded(request.param)


def run(model, batch, key=None):
    return jax.jit(model.apply)(model.params, batch, key)


def prompt(case):
    batch = case.batch()
    return {name: batch[name] for name in ("input_ids", "attention_mask", "images")}


def test_logits_equal_the_reference(case):
    np.testing.assert_allclose(run(case.model, case.batch()).logits, case.output("logits"), atol=2e-5)


def test_gradients_equal_the_reference(case):
    assert_gradients_equal(case, lambda params: case.model.apply(params, case.batch()).logits)


def test_greedy_answers_equal_the_reference(case):
    got = models.generate_from(case.model, case.model.params, prompt(case), max_new_tokens=10, stop_tokens=())
    np.testing.assert_array_equal(got.tokens, case.arrays["greedy"])


def test_padded_prompts_are_answered_as_alone(case):
    batch = prompt(case)
    pad = [(0, 0), (2, 1)]
    padded = {name: jnp.pad(batch[name], pad) for name in ("input_ids", "attention_mask")}
    got = models.generate_from(case.model, case.model.params, batch | padded, max_new_tokens=10, stop_tokens=())
    np.testing.assert_array_equal(got.tokens, case.arrays["greedy"])


def test_a_round_trip_is_bitwise_the_published_file(case, tmp_path):
    assert_round_trip(case, tmp_path / "saved")


def test_text_alone_is_the_decoders(case):
    ids = jnp.array([[5, 9, 23, 41]])
    alone = models.Forward(case.model.config.language)
    batch = {"input_ids": ids, "token_type_ids": jnp.ones_like(ids)}
    np.testing.assert_allclose(
        run(case.model, batch).logits, alone(case.model.params["language"], batch).logits, atol=1e-5
    )


def test_an_answer_is_not_seen_by_what_is_before_it():
    case = recorded("tiny_paligemma")
    batch, ids = case.batch(), case.batch()["input_ids"]
    before, after = (run(case.model, batch | {"input_ids": x}).hidden for x in (ids, ids.at[:, -1].set(6)))
    np.testing.assert_allclose(before[:, :-1], after[:, :-1], atol=1e-6)
    changed = run(case.model, batch | {"input_ids": ids.at[:, -4].set(6)}).hidden  # the prompt's last token
    assert not np.allclose(before[:, :1], changed[:, :1], atol=1e-4)
    weights = (jnp.arange(22) >= 18) * (jnp.arange(22) < 21) * jnp.ones((2, 1))
    labels = jnp.pad(ids[:, 1:], ((0, 0), (0, 1)))
    by_weights = {name: x for name, x in batch.items() if name != "token_type_ids"} | {"weights": weights}
    np.testing.assert_array_equal(run(case.model, by_weights | {"labels": labels}).hidden, before)


def test_parts_share_their_configuration_and_are_named_in_the_states(case):
    model = case.model.configure(dtype="bfloat16", collect=("hidden", "attention"), remat="full")

    def run(model):
        def outputs(params):
            made = model.apply(params, case.batch())
            return made.hidden, made.states, made.logits

        return jax.eval_shape(outputs, model.params)

    hidden, states, logits = run(model)
    assert {"vision/layers/0", "vision/attention/0", "language/layers/1", "language/attention/0"} <= set(states)
    assert hidden.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    assert run(models.with_head(case.model, "reward", jax.random.key(0)))[2].shape == (2, 1)


def test_bad_batches_are_refused_in_one_sentence(case):
    batch, params = case.batch(), case.model.params
    with pytest.raises(ValueError, match="example 1 has 15 image tokens and its images take 16"):
        case.model.apply(params, batch | {"input_ids": batch["input_ids"].at[1, 1].set(5)})
    with pytest.raises(ValueError, match=r"images has shape \(2, 8, 8, 3\)"):
        case.model.apply(params, batch | {"images": jnp.ones((2, 8, 8, 3))})
    with pytest.raises(ValueError, match="a prompt of 22 tokens and 60 new ones exceed the 64"):
        models.generate_from(case.model, params, prompt(case), max_new_tokens=60)
    if case.model.config.prefix:
        unsaid = {"input_ids": batch["input_ids"], "images": batch["images"], "labels": batch["input_ids"]}
        with pytest.raises(KeyError, match="batch has labels and no 'token_type_ids'"):
            case.model.apply(params, unsaid)
