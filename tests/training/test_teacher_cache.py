"""A teacher's likeliest classes on disk: right, taken up again, and refused beside anything else."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from data.tiny_tokenizers import for_decoders, for_encoders
from transformers import PreTrainedTokenizerFast

from ft_jax import models
from ft_jax.cli.entry import main
from ft_jax.data.teacher_cache import IDS, VALUES, counted, open_cache
from ft_jax.training import Budget, EvaluationSpec, Experiment, Feed, OptimizerSpec, Use, caching, fit
from ft_jax.training.caching import cache_teacher
from ft_jax.training.own_data import Written
from ft_jax.training.specs import Pretrained

TOP = 4


def saved(folder, key, tokenizer=None):
    own = tokenizer or for_decoders()
    model = models.tiny_decoder(jax.random.key(key), vocabulary=64, layers=1)
    model = dataclasses.replace(model, tokenizer=own)
    models.save(model, model.params, folder)
    return str(folder)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cached")
    teacher, student = saved(folder / "teacher", 1), saved(folder / "student", 2)
    file = folder / "texts.jsonl"
    texts = [{"prompt": "the film is", "completion": " really" * (1 + at % 4) + f" good {at}"} for at in range(21)]
    file.write_text("".join(json.dumps(line) + "\n" for line in texts))
    experiment = Experiment(
        name="small",
        model=Pretrained(student),
        data=Written(str(file), length=16, held_out=0.1),
        method=(Use("distillation.cached_logits"), Use("transfer.full")),
        optimizer=OptimizerSpec("adam", 0.01),
        budget=Budget(steps=2, batch_size=4),
        evaluation=EvaluationSpec(metric="task", mode="min"),
    )
    cache = folder / "cache"
    written = cache_teacher(experiment, teacher, cache, top=TOP, dtype="float32", batch_size=4)
    return folder, experiment, teacher, written


def with_data(experiment, **changes):
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, **changes))


def test_batches_hold_what_the_live_teacher_says_of_tokens_with_loss(here):
    _, experiment, teacher, written = here
    student, live = experiment.model.build(jax.random.key(0)), models.load(teacher)
    (task,) = dataclasses.replace(experiment.data, teacher=str(written.folder)).build(student, Feed(5))
    batch = next(task.train)
    logs = np.asarray(jax.nn.log_softmax(live.apply(live.params, batch, None).logits))
    mask = counted(batch)
    best = np.sort(logs, -1)[..., ::-1][..., :TOP]
    np.testing.assert_allclose(batch[VALUES][mask][:, :-1], best[mask], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(logs, batch[IDS], -1)[mask], best[mask], atol=1e-5)
    np.testing.assert_allclose(np.exp(batch[VALUES][mask]).sum(-1), 1, atol=1e-5)
    assert mask.any() and not mask.all() and not batch[VALUES][~mask].any()
    (held,) = task.evaluations.values()
    assert IDS not in next(iter(held))


def test_a_run_trains_from_it_without_a_teacher(here, tmp_path):
    _, experiment, _, written = here
    made = with_data(experiment, teacher=str(written.folder))
    result = fit(dataclasses.replace(made, out=str(tmp_path)))
    assert result.status == "finished" and "distillation.cached_logits" not in result.state.params
    told = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    assert any(np.isfinite(line.get("distillation.cached_logits", np.nan)) for line in told)


def test_a_call_that_was_cut_off_writes_what_is_missing_and_the_same(here, tmp_path, monkeypatch):
    _, experiment, teacher, _ = here
    monkeypatch.setattr(caching, "SHARD_TOKENS", 64)
    out = tmp_path / "cache"
    arguments = {"top": TOP, "batch_size": 2}
    whole = cache_teacher(experiment, teacher, out, **arguments)
    assert whole.header.shards > 2 and whole.fresh == whole.header.shards
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "1.json").unlink()
    (out / "1.values.npy").write_bytes(b"cut")
    with pytest.raises(ValueError, match="lacks shard 1 of"):
        open_cache(out)
    assert cache_teacher(experiment, teacher, out, **arguments).fresh == 1
    assert files == {path.name: path.read_bytes() for path in out.iterdir()}
    rows = experiment.data.rows(experiment.model.build(None))
    one = [row[VALUES] for row in open_cache(out).beside(rows)]
    other = [row[VALUES] for row in open_cache(here[3].folder).beside(rows)]
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-3)


def test_packed_rows_are_rows_of_their_own(here, tmp_path):
    _, experiment, teacher, written = here
    packed = with_data(experiment, packed=True)
    with pytest.raises(ValueError, match="other data, tokenizer, length or packing"):
        with_data(packed, teacher=str(written.folder)).data.build(packed.model.build(None), Feed(2))
    other = cache_teacher(packed, teacher, tmp_path / "packed", top=TOP, batch_size=2)
    (task,) = with_data(packed, teacher=str(other.folder)).data.build(packed.model.build(None), Feed(2))
    assert next(task.train)[IDS].shape[-1] == TOP


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "header"])
def test_damage_is_noticed_before_anything_trains(here, tmp_path, damage):
    folder = tmp_path / "cache"
    shutil.copytree(here[3].folder, folder)
    path = folder / ("header.json" if damage == "header" else "0.ids.npy")
    raw = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(raw[:-5])
    elif damage == "header":
        path.write_text(path.read_text().replace('"top": 4', '"top": "4"'))
    else:
        raw[-1] ^= 1
        path.write_bytes(raw)
    with pytest.raises(ValueError, match="should be a valid integer" if damage == "header" else "not what was written"):
        with_data(here[1], teacher=str(folder)).data.build(here[1].model.build(None), Feed(2))


def test_a_model_with_another_tokenizer_is_refused_though_its_rows_are_the_same(here, tmp_path):
    _, experiment, _, written = here
    tokenizer = for_decoders()
    tokenizer.add_tokens(["unheard"])
    made = with_data(experiment, teacher=str(written.folder))
    model = models.load(saved(tmp_path / "other", 3, tokenizer))
    with pytest.raises(ValueError, match="holds classes by the tokenizer of .* and the model has another one"):
        made.data.build(model, Feed(2))


def test_what_does_not_match_is_refused_and_nothing_is_written(here, tmp_path):
    folder, experiment, teacher, written = here
    for match, changed, other, options in (
        ("top is 65, and .* has 64 classes", experiment, teacher, {"top": 65}),
        (
            "tokenizers? .*differ",
            experiment,
            saved(tmp_path / "other", 3, PreTrainedTokenizerFast(tokenizer_object=for_encoders())),
            {},
        ),
        ("dtype is 'int8'", experiment, teacher, {"dtype": "int8"}),
        ("batch is 0", experiment, teacher, {"batch_size": 0}),
    ):
        with pytest.raises(ValueError, match=match):
            cache_teacher(changed, other, tmp_path / "new", **options)
        assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="cache of another teacher"):
        cache_teacher(experiment, saved(tmp_path / "third", 4), written.folder, top=TOP, dtype="float32", batch_size=4)
    with pytest.raises(ValueError, match="holds other files"):
        cache_teacher(experiment, teacher, folder, top=TOP)
    with pytest.raises(FileNotFoundError, match="has no header.json"):
        open_cache(tmp_path)


def test_the_command_writes_it_and_says_how_to_train(here, tmp_path, capsys):
    folder, experiment, teacher, _ = here
    words = ["cache-teacher", "own/distil", "--teacher", teacher, "--out", str(tmp_path / "c"), "--top", "3"]
    words += ["--data.address", experiment.data.address, "--model.address", str(folder / "student")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "3 of 64 classes each" in said and "--data.teacher" in said and "bytes a token" in said
    assert main([*words, "--top", "5"]) == 2
    assert "cache of another top (3, not 5)" in capsys.readouterr().err
