import pytest

from benchmarks.adapters import ROWS, page
from ft_jax import catalogue
from ft_jax.training.composition import Use

LINE = {
    "method": "transfer.lora", "trainable": 1234, "trainable_share": 0.01, "time_ratio": 0.5, "memory_ratio": 0.75,
    "accuracy_before": [0.7, 0.7], "accuracy": [0.9, 0.94], "device": "cpu", "jax": "0.10.2",
}  # fmt: skip


@pytest.mark.parametrize("name", list(ROWS))
def test_rows_are_methods_with_options_that_they_have(name):
    row = ROWS[name]
    assert name in catalogue
    Use(name, **row.options).check()
    if row.inside is not None:
        row.inside.check()


def test_the_page_is_made_of_the_lines_in_the_tables_order():
    ia3 = {**LINE, "method": "attention.ia3"}
    refused = {"method": "transfer.boft", "refused": "block 7 does not divide 384"}
    text = page([ia3, refused, LINE], {"transfer.lora": 2e-6})
    assert "| `transfer.lora` | 1,234 | 1.00% | 2e-06 | 0.50 | 0.75 | 0.920 | 0.900 to 0.940 |" in text
    assert "| `attention.ia3` | 1,234 | 1.00% |  | 0.50" in text
    assert text.index("transfer.lora") < text.index("attention.ia3")
    assert "- `transfer.boft`: block 7 does not divide 384" in text and "The movie model as it is: 0.700." in text
    assert "Nothing has been measured yet." in page([], {})
