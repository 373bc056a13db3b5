"""The quick forms of what `make torture` does by the hundreds, and what SECURITY.md says of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import torture, without
from faults.flips import flips
from faults.fuzz import a_sentence, fuzzed, kept, original, outcome

ROOT = Path(__file__).parents[2]


@pytest.mark.always
def test_malformed_inputs_are_read_as_they_are_or_refused_in_a_sentence():
    wrong = [(name, number, found) for name, number, _, found in fuzzed(330, 5) if found not in ("refused", "read")]
    assert not wrong


@pytest.mark.parametrize(("target", "path"), kept(), ids=lambda value: getattr(value, "name", None))
def test_what_was_found_once_stays_mended(target, path):
    assert outcome(target, path.read_bytes(), original(target)[1]) in ("refused", "read")


def test_another_librarys_words_are_no_sentence():
    assert a_sentence(ValueError("a.json is not JSON; get it again"))
    for error in (KeyError("name"), TypeError("'NoneType' object is not iterable"), ValueError("a \x1b[2J b " * 3)):
        assert not a_sentence(error)


@pytest.mark.always
def test_flipped_bits_of_a_checkpoint_and_a_kept_model_are_noticed():
    assert flips(60, 1) == (60, [])


@pytest.mark.parametrize(
    "kind", [pytest.param("supervised", marks=pytest.mark.always), "stream", "population", "on-policy"]
)
def test_a_killed_run_ends_in_the_same_bits(kind):
    # In a process of its own, which computes nothing before it forks.
    words = ["--quick", "--kinds", kind, "--kills", "1", "--most", "1", "--seed", "3"]
    done = subprocess.run(
        [sys.executable, "-m", "faults.kills", *words],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["lost"] for line in lines] == [""] * len(lines) and lines, done.stderr[-900:]
    assert lines[-1]["kills"] == 1


def test_every_protection_is_where_it_is_said_and_was_seen_to_be_needed():
    assert [one.name for one in without.PROTECTIONS if without.pieces(one) != 1] == []
    known = without.recorded()
    assert [one.name for one in without.PROTECTIONS if not known.get(one.name)] == []
    assert without.table() in (ROOT / "docs" / "trust.md").read_text()


def test_security_quotes_the_counts():
    found = torture.counted()
    assert not found["wrong"] and found["inputs"] >= 3000 and found["flips"] == found["noticed"] >= 500
    said = " ".join((ROOT / "SECURITY.md").read_text().split())
    assert torture.sentence(found) in said
