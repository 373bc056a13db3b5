"""One file becomes what is learned and what is measured, the same way everywhere."""

import dataclasses
import json

import numpy as np
import pytest
from data.tiny_tokenizers import for_decoders

from ft_jax import data, models
from ft_jax.training import Feed
from ft_jax.training.own_data import Completions, ImageFolder, Labelled, in_pieces, train_and_evaluation
from ft_jax.training.own_data.written import in_place


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


SHOWN = "{prompt} the {completion} you"


@dataclasses.dataclass(frozen=True)
class Reader:
    """A model as far as data asks it."""

    tokenizer: object
    pad_token: int = 0


def asked(tmp_path, rows, **changes):
    """``(batch, tokenizer)`` of a file of rows."""
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = for_decoders()
    spec = Completions(str(file), held_out=0.0, length=64, **changes)
    spec.check()
    (task,) = spec.build(Reader(tokenizer), Feed(2))
    return next(task.train), tokenizer


def test_a_teacher_is_shown_the_prompt_with_its_completion(tmp_path):
    rows = [{"prompt": f"the film {i}", "completion": " is good"} for i in range(4)]
    batch, tokenizer = asked(tmp_path, rows, shown=SHOWN)
    plain, _ = asked(tmp_path, rows)
    for field in ("input_ids", "labels"):
        np.testing.assert_array_equal(batch[field][:, : plain[field].shape[1]], plain[field])
    for row in range(2):
        real = batch["privileged"]["attention_mask"][row] > 0
        text = tokenizer.decode(batch["privileged"]["input_ids"][row][real].tolist())
        prompt = tokenizer.decode(batch["input_ids"][row][: int(np.argmax(batch["labels"][row] >= 0)) + 1].tolist())
        assert text == f"{prompt} the is good you" and prompt.startswith("the film")


def test_what_is_shown_in_place_of_messages_is_the_last_one():
    system, user = {"role": "system", "content": "be brief"}, {"role": "user", "content": "2 + 2?"}
    told = in_place(SHOWN, [system, user], [{"role": "assistant", "content": "4"}])
    assert told == [system, {"role": "user", "content": "2 + 2? the 4 you"}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shown": "{prompt} {answer}"}, "write {prompt} and {completion} where these are to stand"),
        ({"shown": "{prompt} again"}, "write {prompt} and {completion}"),
        ({"shown": SHOWN, "packed": True}, "leave out data.packed"),
        ({"shown": SHOWN, "too_long": "drop"}, "leave out data.too_long"),
        ({"shown": SHOWN + " very" * 80}, "more than the 64 of data.length"),
    ],
)
def test_what_cannot_be_shown_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        asked(tmp_path, [{"prompt": "the film", "completion": " is good"}] * 4, **changes)
