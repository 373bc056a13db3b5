"""Answering while learning: what is answered, what is learned, and that a kill changes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training.online import killed_stream
from training.serving import small_runs
from training.small import same_bits

from ft_jax import data
from ft_jax.cli import main
from ft_jax.training.online import Entry, Journal, learner_of, record_of
from ft_jax.training.seal import Damaged
from ft_jax.training.serving import load_run, predict

TESTS = Path(__file__).parents[2]


def test_a_stream_killed_at_any_moment_ends_in_the_bits_of_one_that_never_was(tmp_path):
    source, rows = tmp_path / "lines.jsonl", killed_stream.rows(60)
    source.write_text("\n".join(rows) + "\n")
    whole, served = killed_stream.stream(tmp_path / "whole", source)
    assert served.lines == 60 and served.learned == 40 and len(served.examples) == 40
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    environment = {**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    for moment, number in (("before the journal", 8), ("before learning", 13), ("in a checkpoint", 1)):
        words = [sys.executable, "-m", "training.online.killed_stream", tmp_path / "parts", source, moment, str(number)]
        done = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == -9, done.stderr[-2000:]
    parts, again = killed_stream.stream(tmp_path / "parts", source)
    assert again.lines == 60 and again.learned == 40 and len(again.answers) < 60 and again.right == served.right
    same_bits(parts.state.replace(frozen=None), whole.state.replace(frozen=None))
    assert parts.state.memory["incremental.replay"]["seen"] == 40
    # The journal begins at the oldest checkpoint that is kept, and what was before it is gone.
    oldest = min(int(folder.name) for folder in (tmp_path / "parts" / "checkpoints" / "last").iterdir())
    begun = sorted(int(file.stem) for file in (tmp_path / "parts" / "journal").iterdir())
    assert begun[0] <= oldest and all(one > oldest for one in begun[1:])


def test_each_line_is_answered_by_the_state_before_it_and_learned_from_by_a_step(tmp_path):
    source, answers = tmp_path / "lines.jsonl", []
    source.write_text("\n".join(killed_stream.rows(5)) + "\n")
    learner, _ = killed_stream.stream(tmp_path / "stream", source, answers.append)
    slow, plan, _ = learner_of(killed_stream.EXPERIMENT)
    state = plan.plain.init(plan.model.params, plan.key)
    for text, answer in zip(killed_stream.rows(5), map(json.loads, answers), strict=True):
        record = record_of(text, ("negative", "positive"))
        batch = slow.batch(record.inputs, -1 if record.label is None else record.label)
        logits = np.asarray(plan.plain.evaluate(state, batch).predictions[0], np.float64)
        p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        np.testing.assert_allclose(list(answer["probabilities"].values()), p, atol=2e-5)
        if record.label is not None:
            state, _ = plan.plain.step(state, batch)
    for a, b in zip(*(map(np.asarray, np_leaves(one.params)) for one in (state, learner.state)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def np_leaves(tree):
    import jax

    return jax.tree.leaves(tree)


BAD = [
    ("{", "line 1 is not JSON"),
    ("[]", "line 1 is a list; write an object with 'text' or 'images'"),
    ('{"label": "positive"}', "line 1 has the fields 'label'; give it one of 'text' and 'images'"),
    ('{"text": 5}', "line 1 has 5 for its text; write a string"),
    ('{"images": [1.0, NaN]}', "line 1 "),
    ('{"text": "a good film", "label": "odd"}', "label 'odd' is none of the classes negative, positive"),
    ('{"text": "a good film", "label": 2}', "label 2 is no class from 0 to 1; nothing is learned from it"),
    ('{"text": "a", "label": 0, "labels": 1}', "it has both 'label' and 'labels'; nothing is learned from it"),
]


def test_a_bad_line_is_answered_with_a_sentence_and_nothing_is_learned_from_it(tmp_path):
    source, answers = tmp_path / "lines.jsonl", []
    source.write_text("\n".join(line for line, _ in BAD) + "\n")
    learner, served = killed_stream.stream(tmp_path / "stream", source, answers.append)
    for number, ((_, told), answer) in enumerate(zip(BAD, map(json.loads, answers), strict=True), start=1):
        assert told.replace("line 1", f"line {number}") in answer["error"]
    assert served.lines == len(BAD) and learner.learned == 0


def test_a_journal_drops_a_line_that_was_cut_off_and_refuses_one_that_is_missing(tmp_path):
    journal = Journal(tmp_path)
    journal.begin(0)
    for number in (1, 2, 3):
        journal.append(Entry(number, {"offset": number}, number, {"text": "a"}, 1, True))
    journal.close()
    file = tmp_path / "0.jsonl"
    file.write_bytes(file.read_bytes()[:-4])
    assert [entry.number for entry in Journal(tmp_path).entries(0)] == [1, 2]
    assert [entry.number for entry in Journal(tmp_path).entries(1)] == [2]
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[1:]))
    with pytest.raises(Damaged, match="goes on at example 2, and the checkpoint ends at 0"):
        list(Journal(tmp_path).entries(0))


def test_a_file_that_grows_is_followed_until_told_to_stop(tmp_path):
    file, seen = tmp_path / "a.jsonl", []
    file.write_text("one\ntw")

    def stop():
        if len(seen) == 1:
            with open(file, "a") as opened:
                opened.write("o\nthree\n")
        return len(seen) == 3

    for line in data.follow(file, stop=stop, look=0.001):
        seen.append(line)
    assert [line.text for line in seen] == ["one", "two", "three"]
    assert [line.text for line in data.follow(file, seen[0].place, end=True)] == ["two", "three"]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "1").write_text("a\nb\n")
    (folder / "2").write_text("c\n")
    found = list(data.follow(folder, end=True))
    assert [line.text for line in found] == ["a", "b", "c"]
    assert [line.text for line in data.follow(folder, found[1].place, end=True)] == ["c"]
    file.write_text("")
    with pytest.raises(ValueError, match="has 0 bytes and was read up to byte 4"):
        next(data.follow(file, seen[0].place))


def test_a_finished_run_goes_on_with_what_learned_in_it_and_beside_it_as_its_predictions_were(tmp_path, capsys):
    model, file = small_runs.encoder_folder(tmp_path / "encoder"), small_runs.texts(tmp_path / "reviews.csv")
    run = small_runs.run(small_runs.classifier(model, file, "reviews"), tmp_path / "run").run
    source, out = tmp_path / "lines.jsonl", tmp_path / "stream"
    rows = [{"text": "the plot was great", "id": "a"}, {"text": "the plot was great", "label": "negative"}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows * 3))
    words = ["stream", str(run), "--from", str(source), "--end", "--out", str(out)]
    assert main([*words, "--optimizer.learning_rate", "0.05"]) == 0
    told = capsys.readouterr()
    answers = [json.loads(line) for line in told.out.splitlines()]
    assert [answer["line"] for answer in answers] == [1, 2, 3, 4, 5, 6] and answers[0]["id"] == "a"
    expected = next(iter(predict(load_run(run), [rows[0]["text"]])))
    assert answers[0]["label"] == expected.label
    for name, p in expected.probabilities.items():
        assert answers[0]["probabilities"][name] == pytest.approx(p, abs=1e-4)
    assert answers[5]["probabilities"]["negative"] > answers[0]["probabilities"]["negative"] + 0.01
    assert "6 lines, learned from 3" in told.err and "(99th percentile)" in told.err
    # Nothing new: nothing is answered again; another rate is another stream.
    assert main([*words, "--optimizer.learning_rate", "0.05"]) == 0
    told = capsys.readouterr()
    assert not told.out and "goes on after 6 lines" in told.err
    assert main([*words, "--optimizer.learning_rate", "0.01"]) == 2
    assert "holds another stream, whose optimizer.learning_rate is 0.05 and not 0.01" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "ft-jax stream needs a run's folder"),
        (["--from", "x"], "'--from' stands before the run or experiment"),
        (["nowhere.py", "--from", "nothing.jsonl"], "there is no file or folder nothing.jsonl to follow"),
        (["nowhere.py", "--every", "0"], "--every is 0; give a whole number of at least 1"),
    ],
)
def test_a_command_that_cannot_mean_one_thing_is_refused_at_once(words, told, capsys):
    assert main(["stream", *words]) == 2
    assert told in capsys.readouterr().err
