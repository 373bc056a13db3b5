"""A teacher with another tokenizer, from the command line: rows aligned, a run that trains, and what is refused."""

import json

import numpy as np
import pytest
from data.byte_tokenizers import byte_level, saved

from ft_jax import data, models
from ft_jax.cli.entry import main
from ft_jax.data.alignment import GROUPS, TAUGHT
from ft_jax.training import Feed
from ft_jax.training.own_data import CommonTokens, Documents, Written
from ft_jax.training.own_data.written import tokenizer_at
from ft_jax.training.written_methods import use_of


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aligned")
    student = saved(folder / "student", 1, byte_level(["film", " good"]), 272)
    teacher = saved(folder / "teacher", 2, byte_level(["fi", " go", "really"], opening="<begin>"), 280)
    file = folder / "texts.jsonl"
    texts = [
        {"prompt": "the film is", "completion": " really" * (1 + at % 3) + f" good \U0001f600 {at}"} for at in range(12)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in texts))
    return str(file), student, teacher


def test_a_batch_holds_every_answer_in_the_teachers_tokens(here):
    file, student, teacher = here
    model = models.load(student)
    spec = Written(file, length=64, held_out=0.2, teacher_tokenizer=teacher)
    spec.check()
    (task,) = spec.build(model, Feed(3))
    (held,) = task.evaluations.values()
    other = tokenizer_at(teacher)
    assert other.get_vocab() != model.tokenizer.get_vocab()
    for batch in (next(task.train), next(iter(held))):
        part = batch[TAUGHT]
        assert part["input_ids"].shape == batch["input_ids"].shape and part["attention_mask"].any(axis=1).all()
        for row in np.flatnonzero((batch["weights"] > 0).any(axis=1)):
            texts = [
                tokenizer.decode(side["labels"][row][side[GROUPS][row] > 0].tolist(), skip_special_tokens=True)
                for tokenizer, side in ((model.tokenizer, batch), (other, part))
            ]
            assert texts[0] == texts[1] and "good \U0001f600" in texts[0]
            assert batch[GROUPS][row].max() == part[GROUPS][row].max() > 8


def test_the_command_trains_from_it(here, tmp_path, capsys):
    file, student, teacher = here
    words = [
        "run",
        "own/distil",
        "--data.address",
        file,
        "--model.address",
        student,
        "--data.teacher_tokenizer",
        teacher,
    ]
    method = f"distillation.uld(params=Pretrained('{teacher}'), common=CommonTokens('{teacher}'), hard_weight=None)"
    words += ["--method", method, "transfer.full", "--budget.steps", "6", "--budget.batch_size", "4"]
    words += ["--optimizer.learning_rate", "0.01", "--optimizer.schedule", "constant", "--optimizer.warmup", "0"]
    words += ["--evaluation.metric", "distillation.uld", "--out", str(tmp_path)]
    assert main(words) == 0, capsys.readouterr().err
    (run,) = (path.parent for path in tmp_path.rglob("metrics.jsonl"))
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    terms = [line["distillation.uld"] for line in told if "distillation.uld" in line and "task" not in line]
    assert len(terms) > 2 and np.isfinite(terms).all() and terms[-1] < terms[0]


def test_what_cannot_stand_beside_a_teachers_tokens_is_refused(here):
    file, _, teacher = here
    for changes, match in (
        ({"packed": True}, "leave out data.packed"),
        ({"too_long": "drop"}, "leave out data.too_long"),
        ({"learn_prompt": True}, "leave out data.learn_prompt"),
    ):
        with pytest.raises(ValueError, match=match):
            Written(file, teacher_tokenizer=teacher, **changes).check()
    with pytest.raises(ValueError, match="take Written"):
        Documents(file, teacher_tokenizer=teacher).check()


def test_common_tokens_are_an_option_on_the_command_line(here):
    _, student, teacher = here
    use = use_of(f"distillation.uld(common=CommonTokens({teacher!r}))")
    assert use.options["common"] == CommonTokens(teacher)
    parts = type("Parts", (), {"model": models.load(student)})
    ids = CommonTokens(teacher).for_run(parts)
    wanted = data.common_tokens(parts.model.tokenizer, tokenizer_at(teacher))
    assert all(np.array_equal(one, other) for one, other in zip(ids, wanted, strict=True)) and len(ids[0]) > 256
