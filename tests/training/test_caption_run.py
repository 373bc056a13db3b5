"""A run that writes to one's own images: trained and asked by the command, shown in the report."""

import json

import jax
import numpy as np
import pytest
from training.serving import small_runs

from ft_jax.cli import main
from ft_jax.models import generate_from
from ft_jax.training.own_data import Captions
from ft_jax.training.own_data.captions import example, prompt_of, prompt_tokens
from ft_jax.training.serving import load_run
from ft_jax.training.several import Writer

PIL = pytest.importorskip("PIL.Image")
TEXTS = ("a good film", "a bad film", "great acting")
TINY = [
    *("--model.language", "decoder", "--model.image", "8", "8", "1", "--model.patch", "4", "--model.hidden", "16"),
    *("--model.layers", "1", "--budget.batch_size", "2", "--method.transfer.lora.rank", "2"),
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captions")
    small_runs.decoder_folder(folder / "decoder", layers=1)
    generator = np.random.default_rng(0)
    for name in range(6):
        PIL.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{name}.png")
    rows = [{"image": f"{name}.png", "caption": TEXTS[name % 3]} for name in range(6)]
    write(folder / "train.jsonl", rows[:4])
    write(folder / "test.jsonl", rows[3:])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["--data.address", "train.jsonl", "--data.evaluation", "test.jsonl", "--budget.epochs", "3"]
        assert main(["run", "own/caption", *words, *TINY, "--out", "caption"]) == 0
    return folder


def test_the_report_shows_what_the_kept_model_writes_beside_the_images(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (told,) = json.loads((place / "caption" / "pictured.json").read_text())["sets"].values()
    rows = told["captions"]["rows"]
    assert [row["wanted"] for row in rows] == [TEXTS[name % 3] for name in (3, 4, 5)]
    kept = load_run("caption")
    for row, name in zip(rows, (3, 4, 5), strict=True):
        image = np.asarray(PIL.open(f"{name}.png"), np.float32)[None, ..., None] / 255
        batch = {"images": image, "input_ids": prompt_tokens(kept.model, "<image>")[None]}
        found = generate_from(kept.model, kept.model.params, batch, max_new_tokens=6)
        ids = np.asarray(found.tokens)[0][: int(found.lengths[0])]
        assert kept.model.tokenizer.decode(ids.tolist(), skip_special_tokens=True).strip().startswith(row["written"])
        assert row["right"] == (row["written"].split() == row["wanted"].split())
    assert told["captions"]["scores"]["exact match"] == pytest.approx(np.mean([row["right"] for row in rows]))
    assert len(told["looked"]) == 2 and np.shape(told["looked"][0]["map"]) == (2, 2)
    page = (place / "caption" / "report.html").read_text()
    assert "What was written to the first images" in page and page.count("data:image/png") == 5
    assert main(["generate", "caption", "--image", "3.png", "--image", "4.png", "--json", "--max-new-tokens", "6"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["image"] for one in said] == ["3.png", "4.png"]
    assert [one["text"].startswith(row["written"]) for one, row in zip(said, rows, strict=False)] == [True, True]


def test_a_text_alone_counts_and_the_images_places_are_its_tokens(place, monkeypatch):
    monkeypatch.chdir(place)
    model = Writer("decoder", (8, 8, 1), 4, hidden=16, layers=1).build(jax.random.key(0))
    one = example(model, prompt_of("a <image> film {question}", "great <image>"), "bad acting", 64)
    places = one["input_ids"] == model.config.image_token
    assert places.sum() == model.config.image_tokens == 4
    counted = [token for token, weight in zip(one["labels"], one["weights"], strict=True) if weight]
    decode = model.tokenizer.decode
    assert decode(counted[:-1]).strip() == "bad acting" and counted[-1] == model.stop_tokens[0]
    assert one["weights"].sum() == len(counted) and not one["weights"][: np.flatnonzero(places).max()].any()


@pytest.mark.parametrize(
    "row, words, said",
    [
        (
            None,
            ["--data.prompt", "What is it?"],
            "prompt 'What is it?' has 0 places for its image; write <image> in it",
        ),
        (None, ["--data.prompt", "<image> or <image>"], "has 2 places for its image; write <image> in it once"),
        (None, ["--data.question", "ask"], "data.question is 'ask' and data.prompt is '<image>'; name a column"),
        ({"image": "gone.png", "caption": "a"}, [], "example 2: there is no file 'gone.png'"),
        ({"image": "", "caption": "a"}, [], "example 2 has no image to write to"),
        ({"image": "1.png", "caption": " "}, [], "example 2 has ' ' in 'caption', which is no text"),
    ],
)
def test_bad_input_is_told_in_a_sentence_before_anything_is_trained(row, words, said, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    rows = [{"image": f"{name}.png", "caption": TEXTS[name % 3]} for name in range(2)]
    write(place / "bad.jsonl", rows if row is None else [*rows, row])
    base = ["run", "own/caption", "--data.address", "bad.jsonl", "--data.held_out", "0", *TINY, "--out", "never"]
    assert main([*base, *words]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1 and not (place / "never").exists()


def test_generate_names_what_it_lacks(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    for words, said in (
        ([], "needs a prompt to answer"),
        (["--image", "gone.png"], "there is no file gone.png"),
        (["What?", "--image", "1.png"], "prompt 'What?' has 0 places for its image"),
    ):
        assert main(["generate", "caption", *words]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match="writes nothing to images"):
        Captions("train.jsonl").build(None, None)
