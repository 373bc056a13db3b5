"""A teacher's answers as data: right, taken up again, learned by a student, and refused beside anything else."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from data.tiny_tokenizers import for_decoders

from ft_jax import data, models
from ft_jax.cli.entry import main
from ft_jax.training import answering
from ft_jax.training.answering import write_answers

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ' ' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)


def saved(folder, key, template=None, layers=1):
    tokenizer = for_decoders()
    tokenizer.chat_template = template
    model = models.tiny_decoder(jax.random.key(key), vocabulary=64, layers=layers)
    # What it writes differs from prompt to prompt, and ends.
    params = jax.tree.map(lambda leaf: 3.0 * leaf, model.params)
    model = dataclasses.replace(model, params=params, tokenizer=tokenizer, stop_tokens=tuple(range(0, 64, 3)))
    models.save(model, model.params, folder)
    return str(folder)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    file = folder / "prompts.jsonl"
    words = ("the film is", "a story", "music really", "good", "the end of it", "what", "is it")
    file.write_text("".join(json.dumps({"prompt": word, "answer": "unread"}) + "\n" for word in words))
    return folder, str(file), saved(folder / "teacher", 1), words


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_what_the_teacher_writes_after_each_prompt_alone(here, tmp_path):
    _, file, teacher, words = here
    written = write_answers(file, teacher, tmp_path / "out", max_new_tokens=6, batch_size=3, keep_cut=True)
    model, found = models.load(teacher), lines(written.file)
    assert [one["prompt"] for one in found] == list(words)
    total = 0
    for one in found:
        ids = np.asarray(model.tokenizer(one["prompt"])["input_ids"])[None]
        alone = models.generate(model, model.params, ids, max_new_tokens=6)
        answer = np.asarray(alone.tokens)[0][: int(alone.lengths[0])].tolist()
        total += len(answer)
        text = answer[:-1] if answer[-1] in model.stop_tokens else answer
        assert one["completion"] == model.tokenizer.decode(text, skip_special_tokens=True)
    assert written.tokens == total and len({one["completion"] for one in found}) > 1
    header = json.loads((tmp_path / "out" / "teacher.json").read_text())
    assert header["rows"] == 7 and header["max_new_tokens"] == 6 and len(header["answers"]) == 64


def test_answers_that_had_not_ended_are_left_out(here, tmp_path):
    _, file, teacher, _ = here
    kept = write_answers(file, teacher, tmp_path / "a", max_new_tokens=2, keep_cut=True)
    written = write_answers(file, teacher, tmp_path / "b", max_new_tokens=2)
    assert 0 < kept.cut == written.cut and written.kept == 7 - written.cut < kept.kept


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_call_that_was_cut_off_goes_on_with_the_same(here, tmp_path, monkeypatch, temperature):
    _, file, teacher, _ = here
    how = {"max_new_tokens": 4, "batch_size": 2, "keep_cut": True, "temperature": temperature}
    whole = write_answers(file, teacher, tmp_path / "whole", **how)
    real, calls = answering.models.generate, []

    def dies(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(answering.models, "generate", dies)
    with pytest.raises(KeyboardInterrupt):
        write_answers(file, teacher, tmp_path / "cut", **how)
    monkeypatch.undo()
    unfinished = tmp_path / "cut" / answering.UNFINISHED
    unfinished.write_bytes(unfinished.read_bytes() + b'{"prompt": "ha')  # torn
    assert not (tmp_path / "cut" / answering.ANSWERS).exists()
    again = write_answers(file, teacher, tmp_path / "cut", **how)
    assert again.fresh == 3 and again.file.read_bytes() == whole.file.read_bytes()
    assert write_answers(file, teacher, tmp_path / "cut", **how).fresh == 0


def test_a_chat_template_makes_messages_that_a_student_reads(here, tmp_path):
    _, file, _, words = here
    teacher = saved(tmp_path / "chat", 1, TEMPLATE)
    written = write_answers(file, teacher, tmp_path / "out", max_new_tokens=4, keep_cut=True)
    found = lines(written.file)
    assert found[0]["prompt"] == [{"role": "user", "content": words[0]}]
    assert found[0]["completion"][0]["role"] == "assistant"
    turns = [[{"role": "user", "content": words[0]}, {"role": "assistant", "content": "unread"}]]
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns))
    same = lines(write_answers(str(chats), teacher, tmp_path / "two", max_new_tokens=4, keep_cut=True).file)
    assert same == found[:1]
    rows = data.next_tokens(data.load(written.file), models.load(teacher).tokenizer, length=64)
    assert len(rows) == 7
    plain = write_answers(file, teacher, tmp_path / "plain", max_new_tokens=4, keep_cut=True, plain=True)
    assert lines(plain.file)[0]["prompt"] == words[0]


def test_a_student_trains_on_them_from_the_command_line(here, tmp_path, capsys, monkeypatch):
    _, file, teacher, _ = here
    monkeypatch.chdir(tmp_path)
    words = ["write-answers", file, "--teacher", teacher, "--out", "out", "--max-new-tokens", "4", "--keep-cut"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "7 of 7 answers" in told and "train on it: ft-jax run own/sft --data.address out/answers.jsonl" in told
    student = saved(tmp_path / "student", 2)
    given = ["--data.address", "out/answers.jsonl", "--model.address", student, "--method", "transfer.full"]
    small = ["--budget.steps", "2", "--budget.batch_size", "2", "--data.length", "16"]
    assert main(["run", "own/sft", *given, *small]) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max-new-tokens", "0"], "max-new-tokens is 0; give at least 1"),
        (["--batch", "0"], "batch is 0; give at least 1"),
        (["--temperature", "-1"], "temperature is -1.0; it must be 0"),
        (["--top-p", "0.5"], "top-p is 0.5 of answers that take the likeliest token; give --temperature too"),
        (["--max-new-tokens", "100000"], "has a prompt of .* more than the .* that the teacher takes; shorten it"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(here, tmp_path, capsys, words, says):
    _, file, teacher, _ = here
    out = tmp_path / "out"
    assert main(["write-answers", file, "--teacher", teacher, "--out", str(out), *words]) == 2
    assert re.search(says, capsys.readouterr().err)
    assert not out.exists()


def test_prompts_teachers_and_folders_that_do_not_fit_are_refused(here, tmp_path):
    _, file, teacher, _ = here
    write_answers(file, teacher, tmp_path / "out", max_new_tokens=4, keep_cut=True)
    other = saved(tmp_path / "other", 3)
    with pytest.raises(ValueError, match="holds answers of another teacher .*give another folder"):
        write_answers(file, other, tmp_path / "out", max_new_tokens=4)
    more = tmp_path / "more.jsonl"
    more.write_text('{"prompt": "the"}\n{"prompt": "is"}\n')
    with pytest.raises(ValueError, match="holds answers of another file of prompts"):
        write_answers(str(more), teacher, tmp_path / "out", max_new_tokens=4)
    with pytest.raises(ValueError, match="holds other files"):
        write_answers(file, teacher, tmp_path, max_new_tokens=4)
    for line, says in (
        ({"text": "the"}, "has the columns text and no prompts"),
        ({"prompt": " "}, "row 0 has an empty prompt"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "row 0 has an empty prompt"),
    ):
        more.write_text(json.dumps(line) + "\n")
        with pytest.raises(ValueError, match=says):
            write_answers(str(more), teacher, tmp_path / "new")
    encoder = models.tiny_encoder(jax.random.key(0), vocabulary=64)
    models.save(dataclasses.replace(encoder, tokenizer=for_decoders()), encoder.params, tmp_path / "encoder")
    with pytest.raises(ValueError, match="writes no text; give a teacher that is a decoder"):
        write_answers(file, str(tmp_path / "encoder"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
