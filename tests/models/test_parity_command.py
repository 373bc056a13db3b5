"""The parity command says what differs, by how much, and refuses what it can't compare.

The comparison itself needs torch; ``make parity`` runs it on every recorded checkpoint.
"""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from ft_jax import models
from ft_jax.cli import parity
from ft_jax.cli.entry import main
from ft_jax.cli.parity_cases import cases
from ft_jax.models.generation.generate import gives_tokens

GOLDEN = Path(__file__).parents[1] / "golden"


def test_without_torch_one_sentence_says_so(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["parity", str(GOLDEN / "tiny_llama")]) == 2
    said = capsys.readouterr().err
    assert "torch is not installed" in said and said.count("\n") == 1


@pytest.mark.parametrize(("gaps", "status"), [([1e-6, 0.0], 0), ([1e-6, 3e-5], 1), ([float("nan"), 0.0], 1)])
def test_the_exit_status_says_whether_all_is_equal(monkeypatch, capsys, gaps, status):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(parity, "compare", lambda *options: [parity.Row("logits", gap, 2e-5) for gap in gaps])
    assert main(["parity", "somewhere"]) == status
    printed = capsys.readouterr().out
    assert printed.count("DIFFERS") == sum(not gap <= 2e-5 for gap in gaps)
    assert "1.0e-06" in printed or "nan" in printed


def test_a_gap_is_relative_to_large_values_and_infinite_between_shapes():
    assert parity.gap(np.array([0.5, 0.25]), np.array([0.5, 0.5])) == 0.25
    assert parity.gap(np.array([99.0]), np.array([100.0])) == 0.01
    assert parity.gap(np.array([0.02]), np.array([0.01]), least=0.1) == pytest.approx(0.1)
    assert parity.gap(np.zeros(3), np.zeros((3, 1))) == float("inf")


def test_outputs_count_where_tokens_are_real_and_wholly_where_there_is_one_an_example():
    mask, tokens, examples = np.array([[1, 0], [1, 1]]), np.ones((2, 2, 3)), np.ones((2, 3))
    assert parity._masked(tokens, mask)[..., 0].tolist() == mask.tolist()
    assert (parity._masked(examples, mask) == examples).all() and (parity._masked(tokens, None) == tokens).all()


def test_tokens_are_generated_by_language_models_alone():
    for name, gives in (("tiny_llama", True), ("tiny_llama_reward", False), ("tiny_bert", False)):
        assert gives_tokens(models.load(GOLDEN / name, tokenizer=False).apply) is gives


def test_sequences_are_padded_on_both_sides_and_end_at_window_edges():
    model = models.decoder(
        models.DecoderConfig(
            vocabulary=9, width=8, layers=1, heads=1, key_value_heads=1, head_width=8, mlp_width=8, window=6
        ),
        None,
    )
    right, edges, left = cases(model, np.random.default_rng(0))
    assert right.batch["attention_mask"].sum(axis=1).tolist() == [11, 7, 1]
    assert edges.batch["attention_mask"].sum(axis=1).tolist() == [9, 6, 5]
    assert right.batch["attention_mask"][2].tolist() == left.batch["attention_mask"][2][::-1].tolist()
    assert right.batch["attention_mask"][2, 0] == 1
    assert left.kwargs["position_ids"][2].tolist() == [0] * 11 and left.kwargs["position_ids"][0, -1] == 10
    for case in (right, edges, left):
        real = case.batch["attention_mask"] > 0
        assert case.batch["input_ids"][real].min() >= 3 and (case.batch["input_ids"][~real] == model.pad_token).all()


def test_an_encoder_s_sequences_fit_its_positions():
    model = models.tiny_encoder(None)
    (case,) = cases(model, np.random.default_rng(0))
    assert case.batch["input_ids"].shape == (3, 11)


def test_what_reads_something_unknown_is_refused():
    model = models.mlp(models.MLPConfig(image=(2, 2, 1), widths=(3,)), None)
    with pytest.raises(ValueError, match="MLPConfig is another"):
        cases(model, np.random.default_rng(0))


@pytest.mark.parametrize(
    "name", ["tiny_t5", "tiny_whisper", "tiny_clip", "tiny_siglip", "tiny_llava", "tiny_paligemma"]
)
def test_every_kind_of_model_takes_its_batch(name):
    model = models.load(GOLDEN / name, tokenizer=False, abstract=True)
    for case in cases(model, np.random.default_rng(0)):
        outputs = jax.eval_shape(model.apply, model.params, case.batch)
        assert outputs.hidden.shape[0] == min(map(len, case.batch.values()))
        assert set(case.kwargs) == {"pixel_values" if field == "images" else field for field in case.batch}
        assert case.mask is None


def test_images_go_channels_first_to_the_reference():
    config = models.ViTConfig(image=(8, 8, 3), patch=4, width=8, layers=1, heads=2, mlp_width=8, classes=2)
    model = models.vit(config, jax.random.key(0))
    (case,) = cases(model, np.random.default_rng(0))
    np.testing.assert_array_equal(case.kwargs["pixel_values"].transpose(0, 2, 3, 1), case.batch["images"])
