"""What comes from outside enters a message cut and escaped, wherever messages are made."""

import ast
from pathlib import Path

import pytest

import ft_jax
from ft_jax.cli.entry import sentence
from ft_jax.models.peft.adapter_config import Adapter
from ft_jax.models.peft.formats import formats
from ft_jax.outside import Refused, checked, fields, listed, one_line, printable, refusing, trouble_with
from ft_jax.outside.schema import Size

ROOT = Path(ft_jax.__file__).parent
READING = (
    *("assets", "data", "models/architectures", "models/checkpoints", "models/peft", "training/own_data"),
    *("training/serving", "training/report", "training/overrides.py", "training/written_methods.py"),
    *("training/parallel.py", "training/run_folder.py", "training/predictions.py", "training/saved_folders.py"),
)
NASTY = "a\x1b[2J\x00\u202eb\ud800\x85\u2028c"


def raised(source):
    """The values that the messages of a file's errors show by their repr, which is as long as they are."""
    for statement in ast.walk(ast.parse(source)):
        says = isinstance(statement, ast.Call) and isinstance(statement.func, ast.Name)
        if isinstance(statement, ast.Raise) or (says and statement.func.id in ("refusing", "Refused")):
            for node in ast.walk(statement):
                if isinstance(node, ast.FormattedValue) and node.conversion == ord("r"):
                    yield f"line {node.lineno} shows {ast.unparse(node.value)} by !r"


def test_rooms_that_read_show_values_by_printable_alone():
    assert list(raised("raise ValueError(f'{x!r}')"))
    places = [ROOT / room for room in READING]
    files = [path for place in places for path in (place.rglob("*.py") if place.is_dir() else [place])]
    found = [(str(path), one) for path in files for one in raised(path.read_text())]
    assert not found, f"use printable, which cuts and escapes: {found[:5]}"


@pytest.mark.parametrize("most", [20, 80])
def test_a_value_is_shown_in_so_many_printable_characters(most):
    for value in (NASTY, NASTY * 500, [NASTY] * 50, {NASTY: NASTY}, b"\x1b" * 900, 10**9000):
        shown = printable(value, most)
        assert shown.isprintable() and 3 < len(shown) <= most


def test_what_other_libraries_say_is_shown_in_printable_characters():
    shown = [one_line(RuntimeError(NASTY * 90)), listed([NASTY] * 20), sentence(ValueError(NASTY * 900))]
    for text in shown:
        assert text.isprintable() and len(text) <= 1000
    with pytest.raises(ValueError, match="a is damaged") as caught, refusing("a is damaged", "get it again"):
        raise RuntimeError(NASTY)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["a\nb", "a\u202eb", "\x7f", "a\x00", "a\ud800", "x" * 256, "é" * 128], ids=ascii)
def test_names_that_deceive_or_do_not_fit_are_in_trouble(name):
    assert trouble_with(name) and trouble_with("Größe 大きい/a b.txt") is None


def test_a_schema_names_the_field_of_a_field_and_its_value_in_short():
    schema = fields("Outer", {fields("Inner", {Size: "width"}): "inner"})
    with pytest.raises(Refused, match=r"a.json has inner.width 'a.*', which should be a valid integer") as caught:
        checked(schema, {"inner": {"width": NASTY * 90}}, "a.json")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 200


def test_every_field_that_an_adapter_is_read_by_has_a_type():
    for kind in formats().values():
        told = {"megatron_core", "qalora_group_size", "runtime_config", "prompt_tuning_init_text", "tokenizer_kwargs"}
        assert {*kind.used, *kind.needs} - set(Adapter.model_fields) <= told, kind.peft_type
