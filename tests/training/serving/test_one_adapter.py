"""One adapter of a run that has several, or writes them, goes out as an ordinary LoRA that answers as its examples."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from training.serving import small_runs

from ft_jax import data, models
from ft_jax.cli import main
from ft_jax.cli.serving.export import fields_of
from ft_jax.core import parameters
from ft_jax.training import Feed, Task, Use
from ft_jax.training.serving import load_run, met
from ft_jax.training.serving.export import probe


@dataclasses.dataclass(frozen=True)
class Described:
    """Chats of two tasks, each row with what says its task."""

    address: str
    embedded: bool

    def build(self, model, feed: Feed):
        tokens = data.next_tokens(data.load(self.address), model.tokenizer, length=32)
        task = np.arange(len(tokens)) % 2
        column = {"task_embedding": np.eye(3, dtype=np.float32)[task]} if self.embedded else {"task": task}
        tokens = data.Dataset({**tokens.columns, **column})
        shape = {"length": 32, "padding": model.pad_token}
        source = data.batches(tokens, feed.batch_size, seed=feed.seed, **shape)
        return Task("chats", source, {"chats": data.evaluation_batches(tokens, 4, **shape)}, len(tokens))


@pytest.fixture(scope="module", params=[True, False], ids=["described", "numbered"])
def written(place, request):
    """A short run of a network that writes adapters."""
    name = f"written-{request.param}"
    folder, file = small_runs.decoder_folder(place / f"{name}-base"), small_runs.chats(place / "chats.jsonl")
    method = (Use("transfer.hypernetwork", width=3, rank=2, hidden=4, tasks=0 if request.param else 2),)
    experiment = small_runs.chat(folder, file, name, method)
    budget = dataclasses.replace(experiment.budget, steps=4)
    experiment = dataclasses.replace(experiment, data=Described(str(file), request.param), budget=budget)
    return request.param, small_runs.run(experiment, place / name)


def test_a_task_s_written_adapter_is_exported_by_its_description_or_number(written, tmp_path, capsys):
    embedded, result = written
    vector = np.array([0.2, 1.0, -0.5], np.float32)
    np.save(tmp_path / "task.npy", vector)
    told = "task_embedding=0.2,1,-0.5" if embedded else "task=1"
    folder = tmp_path / "adapter"
    assert main(["export", str(result.run), "--adapter", str(folder), "--field", told]) == 0
    assert "AutoModelForCausalLM" in (said := capsys.readouterr().out) or "LlamaForCausalLM" in said
    kept = load_run(result.run)
    _, params = models.load_adapter(folder, kept.original())
    z = vector if embedded else np.asarray(result.state.params["transfer.hypernetwork"]["tasks"][1])
    shown = parameters(result.state.remember("transfer.hypernetwork", z), result.composition)["model"]
    batch = probe(kept.model)
    wanted = jax.jit(kept.model.apply)(shown, batch).logits
    np.testing.assert_allclose(jax.jit(kept.model.apply)(params, batch).logits, wanted, rtol=1e-5, atol=1e-6)
    base = kept.original()
    assert np.abs(np.asarray(base.apply(base.params, batch).logits) - wanted).max() > 1e-4, "the adapter does nothing"
    if embedded:
        own = ["export", str(result.run), "--merged", str(tmp_path / "whole"), "--field"]
        assert main([*own, f"task_embedding={tmp_path / 'task.npy'}"]) == 0
        again = models.load(tmp_path / "whole", tokenizer=False)
        np.testing.assert_allclose(again.apply(again.params, batch).logits, wanted, rtol=1e-4, atol=1e-5)


def test_what_names_no_task_is_refused_in_a_sentence(written, tmp_path, capsys):
    embedded, result = written
    wrong = {"task_embedding=1,2": "of width 3"} if embedded else {"task=7": "past the end of the run's table"}
    wrong |= {"adapter=1": "read task_embedding, task", "task": "is not NAME=NUMBER"}
    for word, why in wrong.items():
        assert main(["export", str(result.run), "--adapter", str(tmp_path / "out"), "--field", word]) == 2
        said = capsys.readouterr().err
        assert why in said and said.count("\n") == 1, said
    assert main(["export", str(result.run), "--adapter", str(tmp_path / "out")]) == 2
    assert "--field" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_bank_s_adapter_is_exported_by_its_number(place, tmp_path):
    folder, file = small_runs.decoder_folder(place / "of_bank"), small_runs.chats(place / "bank.jsonl")
    base = models.load(folder)
    experiment = small_runs.chat(folder, file, "bank", (Use("transfer.bank", adapters=small_runs.adapters(base)),))
    experiment = dataclasses.replace(experiment, budget=dataclasses.replace(experiment.budget, steps=2))
    result = small_runs.run(experiment, place / "bank")
    assert main(["export", str(result.run), "--adapter", str(tmp_path / "two"), "--field", "adapter=1"]) == 0
    assert json.loads((tmp_path / "two" / "adapter_config.json").read_text())["r"] == 3
    _, params = models.load_adapter(tmp_path / "two", base)
    state = result.state.with_hyper({"transfer.bank.one": 0.0, "transfer.bank.two": 1.0})
    batch = probe(base)
    wanted = base.apply(parameters(state, result.composition)["model"], batch).logits
    np.testing.assert_allclose(base.apply(params, batch).logits, wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"transfer\.bank has 2 adapters and no number 2; give 0 to 1"):
        met(load_run(result.run), {"adapter": 2})


def test_fields_are_numbers_or_vectors():
    assert fields_of(["adapter=1", "task_embedding=1,2.5"])["task_embedding"].tolist() == [1.0, 2.5]
    for word in ("adapter", "adapter=", "adapter=one", "z=nowhere.npy"):
        with pytest.raises((ValueError, FileNotFoundError)):
            fields_of([word])
    with pytest.raises(ValueError, match="given twice"):
        fields_of(["adapter=1", "adapter=2"])
