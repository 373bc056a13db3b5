"""The tables of the pages are what their scripts make of the records, and of the code, now."""

import importlib
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))


@pytest.mark.parametrize(
    "script",
    [
        "adaptive_tables",
        "data_table",
        "distillation_tables",
        "ensemble_tables",
        "meta_tables",
        "multimodal_tables",
        "reproduced_table",
        "rl_tables",
        "stream_tables",
    ],
)
def test_a_page_is_as_its_script_writes_it(script):
    marks, made = importlib.import_module("marks"), importlib.import_module(script)
    text = made.PAGE.read_text(encoding="utf-8")
    assert marks.page(text, made.tables()) == text


@pytest.mark.parametrize("text", ["none", "{BEGIN}", "{END} {BEGIN}", "{BEGIN} {END} {BEGIN} {END}"])
def test_a_page_without_one_place_for_its_tables_is_refused(text):
    marks = importlib.import_module("marks")
    with pytest.raises(ValueError, match="not one '<!-- tables begin -->'"):
        marks.page(text.format(BEGIN=marks.BEGIN, END=marks.END), "| a |")


def test_parts_of_a_page_go_between_the_marks_of_their_names():
    marks = importlib.import_module("marks")
    text = "one <!-- a --> old <!-- /a --> two <!-- b --><!-- /b -->"
    made = marks.page(text, {"b": "B", "a": "A"})
    assert made == "one <!-- a -->\n\nA\n\n<!-- /a --> two <!-- b -->\n\nB\n\n<!-- /b -->"
    with pytest.raises(ValueError, match="not one '<!-- c -->'"):
        marks.page(text, {"c": "C"})


def test_several_numbers_are_told_with_their_range():
    several = importlib.import_module("marks").several
    assert several([0.5, 1.0]) == "0.75 (0.5 to 1)" and several([0.5]) == "0.5"
