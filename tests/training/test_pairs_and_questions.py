"""Pairs of texts and questions with an answer, from a file to a batch, a loss and a reward."""

import dataclasses
import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from data.tiny_tokenizers import for_decoders, for_encoders
from transformers import PreTrainedTokenizerFast

from ft_jax import models
from ft_jax.core import Outputs, catalogue, make_step
from ft_jax.rl.online import Answers
from ft_jax.training import Feed
from ft_jax.training.composition import Parts, Use
from ft_jax.training.own_data import Pairs, Questions, Verified
from ft_jax.training.own_data.questions import characters
from ft_jax.training.paired import PAIRED, rank_correlation, retrieved, similarity_error, told_apart

CHAT = {"role": "user", "content": "hi"}
GOOD = "sentence1,sentence2,score\na good film,the film is great,5\nbad acting,awful plot,4\na film,not good,0\n"


@pytest.fixture(scope="module")
def encoder():
    model = models.tiny_encoder(jax.random.key(0), layers=1)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=for_encoders(), pad_token="[PAD]")
    return models.with_head(with_tokenizer(model, wrapped), "embedding", None)


def with_tokenizer(model, tokenizer):
    return dataclasses.replace(model, tokenizer=tokenizer)


@pytest.fixture
def written(tmp_path):
    def write(name, content):
        (tmp_path / name).write_text(content)
        return str(tmp_path / name)

    return write


def test_scores_are_divided_by_the_largest_and_stay_beside_their_pair(written, encoder):
    (task,) = Pairs(written("a.csv", GOOD), held_out=0.0, largest=5.0).build(encoder, Feed(3))
    batch = next(task.train)
    found = {tuple(ids[ids > 0]): round(float(score), 2) for ids, score in
             zip(batch["input_ids"], batch["labels"], strict=True)}  # fmt: skip
    ids = [tuple(encoder.tokenizer(text)["input_ids"]) for text in ("a good film", "bad acting", "a film")]
    assert [found[one] for one in ids] == [1.0, 0.8, 0.0]
    assert batch[PAIRED]["input_ids"].shape == batch["input_ids"].shape


@pytest.mark.parametrize(
    "content, changes, told",
    [
        (GOOD, {}, "has the score 5 beside the sentence1 .*, and a cosine is from -1 to 1"),
        ("text,other\na,b\n", {}, "Pairs reads 'anchor' and 'positive' or"),
        ("anchor,positive,query,passage\na,b,c,d\n", {}, "say which|one must be meant"),
        ("sentence1,sentence2,label\na,b,yes\nc,d,no\n", {}, "which is no score"),
        ("anchor,positive\na,\nb,c\n", {}, "no positive beside the anchor 'a'"),
        ("", {}, "a.csv"),
        (GOOD, {"score": "gone"}, "gone"),
    ],
)
def test_a_file_that_can_not_be_pairs_is_refused_in_a_sentence(content, changes, told, written, encoder):
    with pytest.raises((ValueError, KeyError), match=told):
        Pairs(written("a.csv", content), held_out=0.0, **changes).build(encoder, Feed(2))


def test_one_named_column_without_the_other_is_refused():
    with pytest.raises(ValueError, match="name both columns or none"):
        Pairs("a.csv", first="one").check()


def table(params, batch, key=None):
    return Outputs(hidden=params["w"][batch["input_ids"][:, 0]])


def loss_of(loss, params, batch):
    program = make_step(loss(table), optax.sgd(0.0))
    state = program.init(params, jax.random.key(0))
    return float(program.step(state, batch)[1]["loss"])


def test_pairs_are_told_apart_as_by_an_explicit_sum():
    w = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    a, b = np.array([0, 1, 2]), np.array([3, 4, 5])
    x, y = (w[i] / np.linalg.norm(w[i], axis=1, keepdims=True) for i in (a, b))
    total = 0.0
    for i in range(3):
        for one, others in ((x[i], y), (y[i], x)):
            logits = [20 * float(one @ other) for other in others]
            total += np.log(sum(np.exp(logits))) - logits[i]
    batch = {"input_ids": jnp.asarray(a[:, None]), PAIRED: {"input_ids": jnp.asarray(b[:, None])}}
    assert loss_of(told_apart, {"w": jnp.asarray(w)}, batch) == pytest.approx(total / 6, rel=1e-5)


def test_cosines_are_held_against_scores():
    w = jnp.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    batch = {"input_ids": jnp.array([[0], [0]]), PAIRED: {"input_ids": jnp.array([[1], [2]])}}
    batch["labels"] = jnp.array([0.5, 1.0])
    want = (0.5**2 + (np.sqrt(0.5) - 1) ** 2) / 2
    assert loss_of(similarity_error, {"w": w}, batch) == pytest.approx(want, rel=1e-5)


def test_measures_leave_out_the_rows_that_fill_up_a_batch():
    sides = np.eye(3, dtype=np.float32)[[[0, 0], [1, 1], [2, 1]]]
    assert retrieved(sides, {}) == pytest.approx(2 / 3)
    assert retrieved(sides, {"weights": np.array([1, 1, 0])}) == 1.0
    batch = {"labels": np.array([0.9, 1.0, 0.1]), "weights": np.ones(3)}
    assert rank_correlation(sides, batch) > 0.8


def questions(written, rows):
    return written("q.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def decoder():
    tokenizer = for_decoders()
    model = models.tiny_decoder(jax.random.key(0))
    return with_tokenizer(model, tokenizer)


def test_a_question_is_written_by_the_template_and_its_answer_read_back(written, decoder):
    chat = [{"prompt": [{"role": "user", "content": "is the film good"}], "answer": 12.0}]
    (task,) = Questions(questions(written, chat), held_out=0.0, length=64).build(decoder, Feed(1))
    batch = next(task.train)
    real = batch["input_ids"][0][batch["attention_mask"][0] > 0]
    rendered = decoder.tokenizer.apply_chat_template(chat[0]["prompt"], tokenize=False, add_generation_prompt=True)
    assert decoder.tokenizer.decode(real) == decoder.tokenizer.decode(
        decoder.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    )
    assert batch["answer"].tolist() == [[ord("1"), ord("2")]]


def test_a_verified_reward_reads_text_and_number():
    words = {1: "it is", 2: "12", 3: "13"}
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: " ".join(words[i] for i in ids))
    parts = Parts(SimpleNamespace(tokenizer=tokenizer), {"answer": characters("12", 2)[None]}, 1, jax.random.key(0))
    answers = Answers(
        jnp.array([[1, 2], [2, 0], [1, 3]]), jnp.array([2, 1, 2]), jnp.ones((3, 1), int), jnp.ones((3, 1), int),
        {"answer": jnp.asarray(np.stack([characters("12", 3)] * 3))},
    )  # fmt: skip
    assert Verified("number").for_run(parts)(answers).tolist() == [1.0, 1.0, 0.0]
    assert Verified("exact").for_run(parts)(answers).tolist() == [0.0, 1.0, 0.0]
    wrong = Parts(parts.model, {"answer": characters("no", 2)[None]}, 1, parts.key)
    with pytest.raises(ValueError, match="'no' is no number"):
        Verified("number").for_run(wrong)


@pytest.mark.parametrize(
    "rows, told",
    [
        ([{"prompt": "a"}], "answer"),
        ([{"prompt": "is it", "answer": ""}], "no answer to the prompt 'is it'"),
        (
            [{"prompt": "is it", "answer": 1}, {"prompt": [{"role": "user", "content": "hi"}], "answer": 2}],
            "of one kind",
        ),
        ([{"prompt": "is the film good " * 30, "answer": 1}], "longer than 24 tokens"),
    ],
)
def test_a_file_that_asks_nothing_is_refused(rows, told, written, decoder):
    with pytest.raises((ValueError, KeyError), match=told):
        Questions(questions(written, rows), held_out=0.0, length=24).build(decoder, Feed(1))


def test_the_run_fills_in_where_an_answer_ends(decoder, monkeypatch):
    prompts = {"input_ids": np.ones((2, 4), np.int32)}
    own = catalogue["rl.grpo"].build
    given = {}

    @functools.wraps(own)
    def noted(**options):
        given.update(options)
        return own(**options)

    entry = dataclasses.replace(catalogue["rl.grpo"], build=noted)
    monkeypatch.setattr("ft_jax.training.composition.catalogue", {"rl.grpo": entry})
    model = dataclasses.replace(decoder, stop_tokens=(3,), pad_token=1)
    use = Use("rl.grpo", reward=lambda answers: answers.lengths * 0.0, samples=2, max_new_tokens=3)
    use.build(Parts(model, prompts, 1, jax.random.key(0)))
    assert given["stop_tokens"] == (3,) and given["pad_token"] == 1
