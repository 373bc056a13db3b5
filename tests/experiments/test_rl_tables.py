"""The tables of docs/rl.md show what was recorded."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_shows_the_records():
    spec = importlib.util.spec_from_file_location("rl_tables", DOCS / "rl_tables.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    text = (DOCS / "rl.md").read_text(encoding="utf-8")
    assert made.page(text) == text
    assert made.several([0.5, 1.0]) == "0.75 (0.5 to 1)" and made.several([0.5]) == "0.5"
