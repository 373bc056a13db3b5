"""The tables of docs/data.md are what the code does."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_shows_what_is_read_now():
    spec = importlib.util.spec_from_file_location("data_table", DOCS / "data_table.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    text = (DOCS / "data.md").read_text(encoding="utf-8")
    assert made.page(text) == text
