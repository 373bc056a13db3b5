"""One file becomes what is learned and what is measured, the same way everywhere."""

import json

import numpy as np
import pytest
from data.tiny_tokenizers import for_decoders

from ft_jax import data, models
from ft_jax.training import Feed
from ft_jax.training.own_data import ImageFolder, Labelled, in_pieces, train_and_evaluation


def test_the_held_out_share_is_disjoint_stable_and_keeps_equal_examples_together(tmp_path):
    rows = [{"text": f"text {i % 60}", "label": "ab"[i % 2]} for i in range(120)]
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train, held = train_and_evaluation(str(file), None, 0.2)
    ours, theirs = set(train.columns["text"]), set(held.columns["text"])
    assert len(train) + len(held) == 120 and not ours & theirs and 0.1 < len(held) / 120 < 0.3
    file.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    again, _ = train_and_evaluation(str(file), None, 0.2)
    assert set(again.columns["text"]) == ours
    assert train_and_evaluation(str(file), None, 0.0)[1] is None


def test_a_handful_of_examples_still_gives_both_sides():
    few = data.Dataset({"text": ["a", "b", "c"]})
    train, held = train_and_evaluation("few", None, 0.01, lambda address: few)
    assert len(train) == 2 and len(held) == 1
    same = data.Dataset({"text": ["a", "a"]})
    with pytest.raises(ValueError, match="examples that say the same"):
        train_and_evaluation("same", None, 0.01, lambda address: same)


def test_pieces_of_a_document_hold_every_target_once():
    tokens = data.next_tokens(data.Dataset({"text": ["the film is good " * 9]}), for_decoders(), length=1000)
    pieces = in_pieces(tokens, 10)
    whole = tokens[0]
    assert max(len(ids) for ids in pieces.columns["input_ids"]) == 10
    for name in ("input_ids", "labels", "weights"):
        np.testing.assert_array_equal(np.concatenate(list(pieces.columns[name])), whole[name])


def test_numbers_to_predict_need_one_output(tmp_path):
    file = tmp_path / "scores.csv"
    file.write_text("text,label\n" + "".join(f"a film {i},{i / 4}\n" for i in range(1, 12)))
    assert Labelled(str(file)).outputs() == 1


def test_a_folder_of_images_is_read_at_the_models_size(tmp_path):
    pytest.importorskip("PIL")
    from PIL import Image

    for name, value in (("dark", 10), ("light", 250)):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("RGB", (9 + i, 7), (value, value, value + i)).save(tmp_path / name / f"{i}.png")
    model = models.mlp(models.MLPConfig((4, 6, 3), (8,), 2), None)
    spec = ImageFolder(str(tmp_path), held_out=0.3)
    (task,) = spec.build(model, Feed(2))
    batch = next(task.train)
    assert spec.outputs() == 2 and task.classes == ("dark", "light")
    assert batch["images"].shape == (2, 4, 6, 3) and batch["images"].max() <= 1
    np.testing.assert_array_equal(batch["labels"], batch["images"].mean((1, 2, 3)) > 0.5)
    (tmp_path / "dark" / "0.png").write_text("no image")
    with pytest.raises(ValueError, match=r"0\.png can't be read as an image"):
        from ft_jax.training.own_data import pixels

        pixels(str(tmp_path / "dark" / "0.png"), (4, 6, 3))
