"""Runs whose answers are several members' or draws' are used from their folder, and answer as they were evaluated."""

import json

import jax
import numpy as np
import pytest
from training.serving import small_runs

from ft_jax import data
from ft_jax.cli import main
from ft_jax.core import compose
from ft_jax.core.members import member
from ft_jax.core.step import outputs_of
from ft_jax.ensemble.fusion.rules import FUSIONS
from ft_jax.training import Use
from ft_jax.training.serving import load_run, predict
from ft_jax.training.serving.use import _prompt, batches

FUSING = {
    "members": (Use("ensemble.members", count=3, fusion="vote"), Use("transfer.lora", rank=2)),
    "draws of dropout": (
        Use("ensemble.mc_dropout", samples=3),
        Use("incremental.er_ace", capacity=8, size=4, classes=2),
    ),
    "snapshots": (Use("ensemble.snapshots", count=2, period=1),),
    "draws of weights": (Use("ensemble.swag", samples=3, rank=2, period=1),),
    "trials of members": (
        Use("tuning.population", numbers={"optimizer.learning_rate": [1e-3, 1e-2]}),
        Use("ensemble.members", count=2),
    ),
}


@pytest.mark.parametrize("methods", FUSING.values(), ids=FUSING)
def test_what_is_answered_is_what_the_run_evaluates(methods, place, encoder, csv, tmp_path, capsys):
    run = small_runs.run(small_runs.classifier(encoder, csv, "fused", method=methods), tmp_path / "fused")
    assert main(["evaluate", str(run.run), "--data", str(csv), "--split", "validation", "--json"]) == 0
    found, own = json.loads(capsys.readouterr().out), run.scores["after"]["reviews"]
    best = np.argmax(own["accuracy"])  # of the trials
    for metric in ("accuracy", "loss"):
        assert found[metric] == pytest.approx(np.ravel(own[metric])[best], rel=1e-4)
    assert main(["export", str(run.run), "--merged", str(tmp_path / "out")]) == 2
    assert "answers through" in capsys.readouterr().err


def test_members_answer_together(place, encoder, csv, tmp_path):
    methods = FUSING["members"]
    run = small_runs.run(small_runs.classifier(encoder, csv, "fused", method=methods), tmp_path / "fused")
    kept = load_run(run.run)
    examples = data.Dataset({"text": ["the film was great", "awful acting"]})
    ((batch, _),) = batches(kept, examples)
    inside = compose(*(part for part in run.composition if part.name != "ensemble.members"))
    each = [outputs_of(member(run.state, index), inside, run.model.apply, batch).logits for index in range(3)]
    wanted = FUSIONS["vote"](np.stack(each))
    np.testing.assert_allclose(kept.compiled()(batch).logits, wanted, rtol=1e-5, atol=1e-5)
    for one, row in zip(predict(kept, examples), wanted, strict=False):
        np.testing.assert_allclose(list(one.probabilities.values()), np.exp(row), rtol=1e-5)


def test_members_write_together(place, capsys):
    folder, file = small_runs.decoder_folder(place / "fused decoder"), small_runs.chats(place / "fused.jsonl")
    methods = (Use("ensemble.members", count=2), Use("transfer.lora", rank=2))
    experiment = small_runs.chat(folder, file, "two", methods)
    run = small_runs.run(experiment, place / "two")
    kept = load_run(run.run)
    inside = compose(*(part for part in run.composition if part.name != "ensemble.members"))
    answer = jax.jit(lambda state, batch: outputs_of(state, inside, run.model.apply, batch).logits)
    prompt, said = "is the film good", []
    ids = np.asarray([_prompt(kept.model, prompt, None, True)])
    while len(said) < 3 and not set(said) & set(kept.model.stop_tokens):
        batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        each = [answer(member(run.state, index), batch) for index in range(2)]
        said.append(int(np.argmax(FUSIONS["mean"](np.stack(each))[0, -1])))
        ids = np.append(ids, [said[-1:]], axis=1)
    assert main(["generate", str(run.run), prompt, "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out.strip() == kept.model.tokenizer.decode(said, skip_special_tokens=True).strip()
