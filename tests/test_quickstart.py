"""Every block of docs/quickstart.md is run, in order, with models that are tiny."""

import ast
import dataclasses
import re
import runpy
import shlex
from pathlib import Path

import pytest
from training.serving import small_runs

from ft_jax import assets
from ft_jax.cli import main
from ft_jax.testing import laws

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")

FEW = ["--budget.steps", "2", "--method.transfer.lora.rank", "2"]
TINY = {
    "classify": ["--model.address", "encoder", *FEW],
    "sft": ["--model.address", "decoder", *FEW],
    "dpo": ["--model.address", "decoder", *FEW],
    "continual": ["--model.address", "encoder", "--data.length", "16", *FEW],
    "search": ["--model.address", "encoder", *FEW],
    "reward": ["--model.address", "decoder", "--method.rl.grpo.samples", "2", *FEW],
    "embed": ["--model.address", "encoder", *FEW],
}
"""What a command is given beside its words, so that it takes seconds."""


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its language, the name after it, its text and its place."""

    language: str
    name: str
    text: str
    section: str

    def __str__(self):
        return f"{self.section}, {self.language} {self.name}".strip(", ")


def blocks() -> list[Block]:
    """The page's blocks in order."""
    found, section = [], ""
    for match in re.finditer(r"^## ([^\n]+)$|^```(\w+)(?: ([\w.]+))?\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        if match[1]:
            section = match[1]
        else:
            found.append(Block(match[2], match[3] or "", match[4], section))
    return found


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    # Of one layer: what a block costs here is tracing.
    small_runs.encoder_folder(folder / "encoder", layers=1)
    small_runs.decoder_folder(folder / "decoder", layers=1)
    return folder


@pytest.fixture
def tiny(here, monkeypatch):
    """In a folder with the tiny models, which stand in for those that the page names."""
    monkeypatch.chdir(here)
    monkeypatch.setattr(assets, "MINILM", "encoder")
    monkeypatch.setattr(assets, "SMOLLM2", "decoder")
    return here


def run(command: str) -> None:
    """One line of a bash block."""
    words = shlex.split(re.sub(r"--budget.epochs \d+", "", command))
    if words[0] == "python":
        runpy.run_path(words[1], run_name="__main__")
        return
    assert words[0] == "ft-jax", f"the page has a command that is not run: {command}"
    more = TINY.get(words[2], []) if words[1] == "run" else []
    if "my-chat-model" in words and words[1] == "run":
        more = more[2:]
    assert main([*words[1:], *more]) == 0, command


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_the_block_does_what_the_page_says(block, tiny):
    if block.language in ("csv", "jsonl"):
        Path(block.name).write_text(block.text, encoding="utf-8")
    elif block.language == "bash":
        for command in block.text.strip().splitlines():
            run(command)
    elif block.name == "theirs":
        # Other libraries' lines: read, not run.
        ast.parse(block.text)
    elif block.name == "ours":
        text = block.text.replace("rank=8, alpha=16.0", "rank=2, alpha=4.0")
        exec(compile(text, f"quickstart: {block.section}", "exec"), {"__name__": "__main__"})
    elif block.language == "python":
        Path(block.name).write_text(block.text, encoding="utf-8")
        compile(block.text, block.name, "exec")
    else:
        # Installation: what it names is there.
        extras = set(re.findall(r"\w+", " ".join(re.findall(r"\[([\w,]+)\]", block.text))))
        setup = (ROOT / "setup.py").read_text(encoding="utf-8")
        assert extras and all(f'"{extra}": [' in setup for extra in extras)


def test_a_method_of_ones_own_is_checked_by_the_laws(tiny, monkeypatch, capsys):
    (block,) = (one for one in blocks() if one.name == "half.py")
    Path("half.py").write_text(block.text, encoding="utf-8")
    # check_laws' own example asks all of them of such a method.
    few = (laws.composing_has_an_identity_and_is_associative, laws.zero_strength_is_the_step_without_the_method)
    monkeypatch.setattr(laws, "LAWS", few)
    runpy.run_path("half.py", run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [f"{law.__name__} holds" for law in few]


def test_every_environment_variable_of_the_package_is_on_the_page():
    named = set()
    for file in (ROOT / "ft_jax").rglob("*.py"):
        named |= set(re.findall(r'"(FT_JAX_[A-Z]+)"', file.read_text(encoding="utf-8")))
    assert named and all(f"`{name}`" in PAGE for name in named)
