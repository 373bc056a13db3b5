"""Tokens added to a model's tokenizer by a run: rows from the mean, kept, exported and loaded again."""

import dataclasses

import numpy as np
import pytest
from training.serving import small_runs

from ft_jax import models
from ft_jax.cli.entry import main
from ft_jax.core import materialize
from ft_jax.training import Use
from ft_jax.training.serving import load_run
from ft_jax.training.specs import Pretrained

ADDED = ("<think>", "</think>")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("added")


def test_a_run_with_more_tokens_goes_on_out_and_in(place, capsys):
    folder, file = small_runs.decoder_folder(place / "decoder"), small_runs.chats(place / "chats.jsonl")
    base = models.load(folder)
    experiment = small_runs.chat(folder, file, "chat", (Use("transfer.lora", rank=2),))
    assert Pretrained(str(folder), added_tokens=ADDED).build(None).params["embeddings"]["tokens"].shape[0] > 0
    experiment = dataclasses.replace(experiment, model=Pretrained(str(folder), added_tokens=ADDED))
    result = small_runs.run(experiment, place / "chat")
    kept = load_run(result.run).model
    ids = [kept.tokenizer.convert_tokens_to_ids(token) for token in ADDED]
    assert kept.tokenizer("<think>", add_special_tokens=False)["input_ids"] == ids[:1]
    rows = base.params["embeddings"]["tokens"].shape[0]
    table = np.asarray(materialize(kept.params["embeddings"]["tokens"]))
    assert table.shape[0] == max(rows, max(ids) + 1) and kept.config.vocabulary == table.shape[0]
    old = np.asarray(base.params["embeddings"]["tokens"])
    np.testing.assert_array_equal(table[:rows], old)
    np.testing.assert_allclose(table[rows:], np.broadcast_to(old.mean(0), table[rows:].shape), rtol=1e-5, atol=1e-6)
    assert main(["generate", str(result.run), "hi", "--max-new-tokens", "2"]) == 0
    assert main(["export", str(result.run), "--merged", str(place / "m"), "--adapter", str(place / "a")]) == 0
    again = models.load(place / "m")
    assert again.config.vocabulary == table.shape[0]
    assert [again.tokenizer.convert_tokens_to_ids(token) for token in ADDED] == ids


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (("<a>", "<a>"), "the token '<a>' to be added is there twice; leave it out"),
        (("",), "the token '' to be added is no text"),
        ((), "no token is to be added"),
    ],
)
def test_tokens_that_add_nothing_are_refused(tokens, words, tmp_path):
    model = models.load(small_runs.decoder_folder(tmp_path / "again"))
    with pytest.raises(ValueError, match=words):
        models.with_tokens(model, tokens)
    with pytest.raises(ValueError, match="is a token already"):
        models.with_tokens(model, (next(iter(model.tokenizer.get_vocab())),))
