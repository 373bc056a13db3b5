"""What is given wrongly is said where it is given, in one sentence."""

import dataclasses

import pytest
from training.serving import small_runs

from ft_jax import transfer
from ft_jax.cli.run import own
from ft_jax.core import compose
from ft_jax.training.specs import Perceptron, Pretrained


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: transfer.lora(targets="attn"), "targets has 'attn', which is no pattern .* 'all-linear', 'attention'"),
        (lambda: transfer.lora(targets=("query", "value")), r"write '\*/query/kernel'"),
        (lambda: transfer.lora(alpha="16"), "transfer.lora has alpha '16'; give it a number"),
        (lambda: transfer.lora(rank="8"), "transfer.lora has rank '8'; give it a whole number"),
        (lambda: transfer.lora(rank=2.5), "transfer.lora has rank 2.5; give it a whole number"),
        (lambda: transfer.pissa(rank=0), "give it at least 1"),
        (lambda: Perceptron(widths=(0,)).check(), "a perceptron has a width of 0; give sizes of at least 1"),
        (lambda: Pretrained("x", classes=0).check(), "model.classes is 0"),
    ],
)
def test_it_is_refused_at_construction(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_a_constructor_that_was_not_called_is_told_to_be():
    with pytest.raises(TypeError, match=r"compose takes methods and compositions, and got .*; call it: full\(\.\.\.\)"):
        compose(transfer.full)


def test_no_dropout_means_none_at_all(tmp_path):
    folder = small_runs.encoder_folder(tmp_path / "encoder")
    import json

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2})
    )
    for rate, wanted in ((None, (0.1, 0.2)), (0.0, (0.0, 0.0)), (0.3, (0.3, 0.2))):
        made = Pretrained(str(folder), dropout=rate).build(None).config
        assert (made.dropout, made.attention_dropout) == wanted


def test_a_changed_experiment_is_not_held_to_what_its_file_expects(tmp_path):
    written = dataclasses.replace(small_runs.classifier(tmp_path, tmp_path, "x"), expect={"accuracy": 0.9})
    assert own(written, dataclasses.replace(written, out="elsewhere"), ["--out"]).expect == {"accuracy": 0.9}
    changed = dataclasses.replace(written, seed=3)
    assert own(written, changed, ["--seed", "3"]).expect == {}
    assert own(written, changed, ["--seed", "3", "--expect.accuracy", "0.9"]).expect == {"accuracy": 0.9}
