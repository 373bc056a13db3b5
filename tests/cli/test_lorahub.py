"""``ft-jax lorahub`` writes a mixture that answers as its report says."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from training.serving import small_runs

from ft_jax import data, models
from ft_jax.cli import main
from ft_jax.core.adapters import map_operators
from ft_jax.training.specs import Pretrained
from ft_jax.transfer import lora

LENGTH = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, and two adapters of it whose factors and heads are drawn."""
    here = tmp_path_factory.mktemp("hub")
    small_runs.encoder_folder(here / "encoder")
    small_runs.texts(here / "reviews.csv")
    model = Pretrained(str(here / "encoder"), classes=2, pooling="pooler").build(jax.random.key(0))
    for number, name in enumerate(("films", "books")):
        key = jax.random.key(number)
        tree = lora(rank=2).surgery({"model": model.params}, key)["model"]
        tree = map_operators(lambda one: dataclasses.replace(one, b=jax.random.normal(key, one.b.shape)), tree)  # noqa: B023
        head = jax.tree.map(lambda x: jax.random.normal(key, x.shape), model.params["head"])  # noqa: B023
        models.save_adapter(model, {**tree, "head": head}, here / name)
    return here


def test_the_mixture_is_saved_and_answers_as_the_report_says(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    words = ["lorahub", "reviews.csv", "--model.address", "encoder", "--adapters", "films", "books", "--out", "mixed"]
    words += ["--examples", "32", "--looks", "24"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["examples"] == 32 and set(told["weights"]) == {"films", "books"}
    assert set(told["loss"]) == set(told["scores"]) == {"mixture", "mean", "films", "books", "none"}
    size = np.mean(np.abs(list(told["weights"].values())))
    assert told["loss"]["mixture"] + 0.05 * size <= told["loss"]["none"] + 1e-5
    assert json.loads((place / "mixed" / "lorahub.json").read_text())["weights"] == told["weights"]

    model = Pretrained("encoder", classes=2, pooling="pooler").build(jax.random.key(5))
    found = data.load("reviews.csv")
    for way, folder in (("mixture", "mixed"), ("films", "films")):
        params = models.load_adapter(place / folder, model)[1]
        held = data.tokenize(held_out(found), model.tokenizer, length=LENGTH)
        (batch,) = data.evaluation_batches(held, len(held), length=(LENGTH,), padding=model.pad_token)
        right = np.argmax(model.apply(params, batch, None).logits, axis=-1) == batch["labels"]
        assert told["scores"][way]["accuracy"] == pytest.approx(float(right.mean()), abs=1e-6)

    assert main(words) == 2 and "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert "the mean of their updates" in capsys.readouterr().out


def held_out(found):
    """What the experiment holds back of one file."""
    from ft_jax.training.own_data.held_out import train_and_evaluation

    held = train_and_evaluation("reviews.csv", None, 0.1, lambda address: found)[1]
    return data.one_mapping({"held": held}, ("negative", "positive"), 2)["held"].select("text", "labels")
