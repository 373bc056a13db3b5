"""Damage to what a run saved is noticed, told in one sentence, and the last whole state is found."""

import json
import os
import random
import shutil
import stat

import pytest
from training.small import experiment, same_bits

from ft_jax.training import Budget, CheckpointSpec, EvaluationSpec, fit, saved_folders
from ft_jax.training.run_folder import RunRefused, read_sealed, write_sealed
from ft_jax.training.saved_folders import NotSaved, SavedFolders
from ft_jax.training.seal import Damaged

MADE = experiment(
    budget=Budget(steps=6, batch_size=8),
    checkpoints=CheckpointSpec(every=2, keep=3),
    evaluation=EvaluationSpec(),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, fit(MADE, run=folder, quiet=True)


@pytest.fixture
def unfinished(whole, tmp_path):
    """A run that was killed after its last checkpoint, before its summary."""
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    for name in ("summary.json", ".summary.json"):
        (folder / name).unlink()
    return folder


def events(folder, cause):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["message"] for line in lines if line.get("cause") == cause]


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_every_flipped_bit_of_a_checkpoint_is_noticed(whole, tmp_path):
    draw, newest = random.Random(0), whole[0] / "checkpoints" / "last" / "6"
    store = SavedFolders(tmp_path, keep=1)
    files = [path for path in newest.rglob("*") if path.is_file() and path.stat().st_size]
    for path in files * 3:
        shutil.copytree(newest, tmp_path / "6")
        flip(tmp_path / "6" / path.relative_to(newest), draw.randrange(8 * path.stat().st_size))
        with pytest.raises(Damaged):
            store.read(6)
        shutil.rmtree(tmp_path / "6")
    assert len(files) > 5


@pytest.mark.parametrize("harm", ["flipped", "cut", "emptied", "gone", "record cut", "record gone", "manifest cut"])
def test_a_damaged_checkpoint_is_left_out_and_the_one_before_gives_the_same_end(whole, unfinished, harm):
    newest = unfinished / "checkpoints" / "last" / "6"
    largest = max(newest.rglob("d/*"), key=lambda path: path.stat().st_size)
    chosen = {"record": newest / "record.json", "manifest": next(newest.rglob("manifest.ocdbt"))}
    path = chosen.get(harm.split()[0], largest)
    if harm.endswith("gone"):
        path.unlink()
    elif harm == "flipped":
        flip(path, 8 * (path.stat().st_size // 2))
    else:
        path.write_bytes(b"" if harm == "emptied" else path.read_bytes()[:-20])
    result = fit(MADE, run=unfinished, quiet=True)
    same_bits(whole[1].state, result.state)
    (told,) = events(unfinished, "damage")
    assert "the checkpoint of step 6 is left out" in told and path.name in told and "\n" not in told
    assert "resumed from the checkpoint of step 4" in events(unfinished, "resume")
    assert sorted(p.name for p in newest.parent.iterdir()) == ["2", "4", "6", "6.damaged"]


def test_where_no_checkpoint_is_whole_nothing_is_touched(unfinished):
    for record in unfinished.glob("checkpoints/last/*/record.json"):
        flip(record, 100)
    before = {path: path.read_bytes() for path in (unfinished / "checkpoints").rglob("*") if path.is_file()}
    with pytest.raises(Damaged, match=r"no checkpoint in .* is whole \(step 6: .*; step 4: .*; step 2: .*\); bring"):
        fit(MADE, run=unfinished, quiet=True)
    assert before == {path: path.read_bytes() for path in (unfinished / "checkpoints").rglob("*") if path.is_file()}


def test_a_checkpoint_is_deleted_only_once_another_is_whole(tmp_path, monkeypatch):
    store = SavedFolders(tmp_path, keep=1)
    seen = []

    def start(fails):
        def begin(place):
            place.mkdir()
            (place / "state").write_text("all of it")

            def done():
                seen.append(store.steps())
                if fails:
                    raise OSError("the disk is gone")

            return done

        return begin

    store.write(1, 0, start(False), {})
    store.write(2, 0, start(True), {})
    with pytest.raises(NotSaved, match=r"of step 2 is not saved \(the disk is gone\): .* step 1 is kept"):
        store.wait()
    assert seen == [[], [1]] and [path.name for path in tmp_path.iterdir()] == ["1"]
    store.write(1, 0, start(False), {"again": True})
    store.wait()
    assert seen[-1] == [1] and store.read(1)[1] == {"again": True}

    def unreadable(folder, leaving):
        raise OSError("the disk is gone")

    monkeypatch.setattr(saved_folders, "digests", unreadable)
    store.write(2, 0, start(False), {})
    with pytest.raises(NotSaved, match="step 1 is kept"):
        store.wait()
    assert store.read(1)[1] == {"again": True}


@pytest.mark.parametrize("left", [[".writing-9"], [".replaced-3", ".writing-3"], [".replaced-3", "3"]])
def test_what_a_killed_writer_left_is_put_right(tmp_path, left):
    for name in left:
        (tmp_path / name).mkdir()
        (tmp_path / name / "from").write_text(name)
    SavedFolders(tmp_path, keep=1)
    names = [path.name for path in tmp_path.iterdir()]
    assert names == ([] if left == [".writing-9"] else ["3"])
    if names:
        assert (tmp_path / "3" / "from").read_text() == ("3" if "3" in left else ".replaced-3")


def test_a_full_disk_keeps_the_old_checkpoint_and_says_what_is_needed(tmp_path, monkeypatch):
    free = [1 << 40]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 40, 0, free[0]))

    def fill(moment):
        if moment.step == 4:
            free[0] = 100

    made = experiment(budget=Budget(steps=8, batch_size=8), evaluation=EvaluationSpec(every=4))
    with pytest.raises(NotSaved, match=r"step 4 is not saved .*needs about \d.* has 100 bytes free; .* none yet"):
        fit(made, run=tmp_path, quiet=True, callbacks=[fill])
    free[0] = 1 << 40
    assert fit(made, run=tmp_path, quiet=True).status == "finished"


def test_torn_and_damaged_lines_of_metrics_are_repaired(whole, unfinished):
    path = unfinished / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b'\xff{"kind":\n', *lines[2:], b'{"kind": "train", "st']))
    fit(MADE, run=unfinished, quiet=True)
    timed = ("seconds", "examples_per_second", "tokens_per_second")

    def told(folder):
        every = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k not in timed} for line in every if line["kind"] != "event"]

    assert told(unfinished) == told(whole[0])
    assert events(unfinished, "repair") == ["metrics.jsonl had 1 damaged lines, which are dropped"]


@pytest.mark.parametrize("name", ["experiment.json", "summary.json"])
@pytest.mark.parametrize("harm", [b"", b'{"name": "poi', b'{"name": "other"}', b"\xff\xfe", b"[" * 5000])
def test_a_damaged_file_of_the_run_is_mended(whole, tmp_path, name, harm):
    shutil.copytree(whole[0], tmp_path / "run")
    good = (tmp_path / "run" / name).read_bytes()
    (tmp_path / "run" / name).write_bytes(harm)
    assert fit(MADE, run=tmp_path / "run", quiet=True).scores == whole[1].scores
    assert (tmp_path / "run" / name).read_bytes() == good


def test_with_both_copies_damaged_the_folder_is_refused_or_the_summary_made_anew(whole, unfinished):
    (unfinished / "summary.json").write_text("{")
    assert fit(MADE, run=unfinished, quiet=True).scores == whole[1].scores
    for name in ("experiment.json", ".experiment.json"):
        (unfinished / name).write_text("{")
    with pytest.raises(RunRefused, match=r"experiment.json is damaged .*, and so is its copy .*; bring it back"):
        fit(MADE, run=unfinished, quiet=True)


def test_files_of_a_run_are_readable_by_the_same_people(tmp_path):
    before = os.umask(0o027)
    try:
        fit(experiment(budget=Budget(steps=1, batch_size=8)), run=tmp_path / "run", quiet=True)
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != ".lock"]
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in files}
    assert set(modes.values()) == {"0o640"}, modes


def test_a_sealed_record_notices_a_number_that_was_changed(tmp_path):
    write_sealed(tmp_path / "a.json", {"score": 0.5})
    for name in ("a.json", ".a.json"):
        (tmp_path / name).write_text((tmp_path / name).read_text().replace("0.5", "0.9"))
    with pytest.raises(Damaged):
        read_sealed(tmp_path / "a.json")
