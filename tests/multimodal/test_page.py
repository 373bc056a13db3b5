"""Every block of Python in docs/multimodal.md is run, by itself."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "multimodal.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_the_page_runs(block):
    exec(compile(block, "docs/multimodal.md", "exec"), {"__name__": "__main__"})


def test_no_block_of_the_page_is_left_out():
    assert len(BLOCKS) == PAGE.count("```") // 2 > 1
