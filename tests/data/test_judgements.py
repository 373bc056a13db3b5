import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from ft_jax.data import Dataset, judgements, preferences

WORDS = {word: index for index, word in enumerate(["[end]", "what", "is", "it", "a", "cat", "dog", "bird"])}


def tokenizer():
    made = tokenizers.Tokenizer(models.WordLevel(WORDS, unk_token="[end]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def judged(**changes):
    columns = {
        "prompt": ["what is it", "what is", "is it"], "completion": [" a cat", " dog", " a bird"],
        "desirable": [True, False, True],
    }  # fmt: skip
    return Dataset({**columns, **changes})


def test_every_prompt_stands_beside_its_own_answer_and_the_one_before():
    found = judgements(judged(), tokenizer(), length=8, end=0)
    spoken = lambda fields: [fields["labels"][place] for place in np.flatnonzero(fields["weights"])]  # noqa: E731
    own = [
        dict(zip(("labels", "weights"), row, strict=True))
        for row in zip(found.columns["labels"], found.columns["weights"], strict=True)
    ]
    answers = [[4, 5, 0], [6, 0], [4, 7, 0]]
    assert [spoken(one) for one in own] == answers
    assert [spoken(one) for one in found.columns["mismatched"]] == [answers[-1], *answers[:-1]]
    prompts = [one["input_ids"][:2].tolist() for one in found.columns["mismatched"]]
    assert prompts == [ids[:2].tolist() for ids in found.columns["input_ids"]]
    assert found.columns["desirable"] == [1.0, 0.0, 1.0]


def test_dropped_examples_take_their_judgement_along():
    with pytest.warns(UserWarning, match="dropped for being over 5 tokens"):
        found = judgements(judged(), tokenizer(), length=5, too_long="drop", end=0)
    assert found.columns["desirable"] == [0.0, 1.0]


def test_answers_that_are_all_alike_are_refused():
    with pytest.raises(ValueError, match="all 3 answers are desirable, so there is nothing to tell apart"):
        judgements(judged(desirable=[1, 1, 1]), tokenizer(), length=8)
    with pytest.raises(KeyError, match="desirable"):
        judgements(judged().select("prompt", "completion"), tokenizer(), length=8)


def test_a_pair_of_equal_answers_is_refused():
    pairs = {"prompt": ["is it", "what is"], "chosen": [" cat", " a dog"], "rejected": [" dog", " a dog"]}
    with pytest.raises(
        ValueError, match="pair 1 has the same answer on both sides, which prefers nothing; drop the pair$"
    ):
        preferences(Dataset(pairs), tokenizer(), length=8, end=0)
    cut = {**pairs, "chosen": [" a cat", " dog"], "rejected": [" a dog", " cat"]}
    with pytest.raises(ValueError, match="drop the pair, or raise length"), pytest.warns(UserWarning):
        preferences(Dataset(cut), tokenizer(), length=3, too_long="truncate", end=0)
