"""Runs over one's own images and texts: trained by the command, shown in the report, asked afterwards."""

import dataclasses
import io
import json
import tarfile
import wave

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data.tiny_shapes import TinyShapes
from training.serving import small_runs

from ft_jax import data, models
from ft_jax.cli import main
from ft_jax.core import make_step, optimizer
from ft_jax.multimodal import alike, contrastive, model
from ft_jax.multimodal.evaluation import patch_attention, without
from ft_jax.training import OptimizerSpec
from ft_jax.training.loop.pictured import different
from ft_jax.training.own_data import Together
from ft_jax.training.rates import rated
from ft_jax.training.report.pictured import png_of
from ft_jax.training.serving import load_run
from ft_jax.training.several import Encoders, right_pairs
from ft_jax.training.stream import Feed

PIL = pytest.importorskip("PIL.Image")
TEXTS = ("a good film", "a bad film", "great acting", "awful plot")
TINY = [
    *("--model.text", "encoder", "--model.image", "8", "8", "1", "--model.patch", "4", "--model.hidden", "16"),
    *("--model.layers", "1", "--model.width", "16", "--budget.batch_size", "4", "--method.transfer.lora.rank", "2"),
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    small_runs.encoder_folder(folder / "encoder", layers=1)
    generator = np.random.default_rng(0)
    for name in range(12):
        PIL.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{name}.png")
    pairs = [{"image": f"{name}.png", "caption": TEXTS[name % 4]} for name in range(12)]
    write(folder / "train.jsonl", pairs[:8])
    write(folder / "test.jsonl", pairs[6:])
    rows = [
        {"image": "" if n == 9 else f"{n}.png", "text": None if n == 8 else TEXTS[n % 4], "label": "gb"[n % 2]}
        for n in range(12)
    ]  # fmt: skip
    write(folder / "labelled.jsonl", rows[:6])
    write(folder / "held.jsonl", rows[6:])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["--data.address", "train.jsonl", "--data.evaluation", "test.jsonl", "--budget.epochs", "3"]
        assert main(["run", "own/match", *words, *TINY, "--out", "match"]) == 0
        words = ["--data.address", "labelled.jsonl", "--data.evaluation", "held.jsonl", "--budget.epochs", "3"]
        assert main(["run", "own/several", *words, *TINY, "--out", "several"]) == 0
    return folder


def pictured(run):
    (found,) = json.loads((run / "pictured.json").read_text())["sets"].values()
    return found


def test_what_is_retrieved_is_what_the_kept_model_finds(place, monkeypatch):
    monkeypatch.chdir(place)
    kept, told = load_run("match"), pictured(place / "match")
    (task,) = Together("train.jsonl", "test.jsonl").build(kept.model, Feed(4))
    batches = list(task.evaluations["test"])
    real = np.concatenate([batch["text"]["weights"] for batch in batches]) > 0
    vectors = {}
    for name in ("image", "text"):
        found = np.concatenate([kept.compiled()({name: batch[name]}).hidden for batch in batches])[real]
        vectors[name] = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert real.sum() == 6 == told["among"]
    near = vectors["image"] @ vectors["text"].T
    texts = [TEXTS[name % 4] for name in range(6, 12)]
    same = np.array(texts)[:, None] == np.array(texts)
    first = same[np.arange(6), near.argmax(axis=1)].mean(), same[np.arange(6), near.argmax(axis=0)].mean()
    assert [row["1"] for row in told["recalls"]] == pytest.approx(first)
    after = json.loads((place / "match" / "summary.json").read_text())["scores"]["after"]["test"]
    assert (after["image_to_text"], after["text_to_image"]) == pytest.approx(first)
    query = told["queries"][0]
    assert query["way"] == "image to text" and query["asked"]["image"].startswith("data:image/png;base64,")
    said = [answer["text"] for answer in query["answers"]]
    order = list(dict.fromkeys(texts[place] for place in np.argsort(-near[0], kind="stable")))
    assert said == order and [answer["right"] for answer in query["answers"]] == [text == texts[0] for text in order]
    assert [len(told["points"][name]) for name in ("image", "text")] == [6, 6]
    page = (place / "match" / "report.html").read_text()
    assert "Recall among 6" in page and "✓" in page and page.count("data:image/png") > 8
    assert "Where the image tower&#39;s last layer looks" in page or "Where the image tower's last layer looks" in page


def test_scores_without_a_modality_are_those_of_the_model_without_it(place, monkeypatch):
    monkeypatch.chdir(place)
    kept, told = load_run("several"), pictured(place / "several")["without"]
    (task,) = Together("labelled.jsonl", "held.jsonl").build(kept.model, Feed(4))

    def accuracy(gone):
        right = count = 0
        for batch in task.evaluations["held"]:
            there = np.max([batch[name]["present"] for name in ("image", "text") if name not in gone], axis=0)
            counts = batch["weights"] * (there > 0)
            few = without({name: batch[name] for name in ("image", "text")}, *gone)
            right += np.sum(counts * (np.asarray(kept.compiled()(few).logits).argmax(1) == batch["labels"]))
            count += counts.sum()
        return right / count, count

    assert accuracy(())[1] == 6 and accuracy(("image",))[1] == accuracy(("text",))[1] == 5
    assert told["metric"] == "accuracy" and told["all"] == pytest.approx(accuracy(())[0], abs=1e-4)
    rows = {row["modality"]: row for row in told["rows"]}
    for name, other in (("image", "text"), ("text", "image")):
        assert rows[name]["removed"] == rows[other]["alone"] == pytest.approx(accuracy((name,))[0], abs=1e-4)
        assert 0 <= rows[name]["corrupted"] <= 1
    page = (place / "several" / "report.html").read_text()
    assert "taken away, corrupted, or alone" in page


def test_a_model_that_compares_tells_which_text_an_image_is_nearest(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main(["predict", "match", "--image", "7.png", "--text", "a bad film", "--text", "great acting"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["text"] == ["a bad film", "great acting"] and sum(told["probabilities"]) == pytest.approx(1, abs=1e-5)
    vectors = {}
    for words in (["--image", "7.png"], ["--text", "a bad film"]):
        assert main(["predict", "match", *words]) == 0
        vectors[words[0]] = np.array(json.loads(capsys.readouterr().out)["embedding"])
    assert vectors["--image"] @ vectors["--text"] == pytest.approx(told["similarities"][0], abs=1e-4)
    assert main(["predict", "match", "--image", "7.png", "--image", "8.png", "--text", "a", "--text", "b"]) == 2
    assert "2 of image, 2 of text; give one input of one kind" in capsys.readouterr().err
    assert main(["predict", "several", "--image", "7.png", "--image", "8.png"]) == 2
    assert "--image is given 2 times" in capsys.readouterr().err


def test_predict_reads_a_table_as_the_run_did(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    rows = [{"image": "7.png", "text": TEXTS[3]}, {"image": "", "text": TEXTS[1]}, {"image": "9.png", "text": None}]
    write(place / "asked.jsonl", rows)
    assert main(["predict", "several", "asked.jsonl"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["example"] for one in told] == [0, 1, 2]
    for row, one in zip(rows, told, strict=True):
        words = [word for name in ("image", "text") if row[name] for word in (f"--{name}", row[name])]
        assert main(["predict", "several", *words]) == 0
        alone = json.loads(capsys.readouterr().out)
        assert one["label"] == alone["label"]
        assert one["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
    for words, said in ((["match", "asked.jsonl"], "gives no classes"), (["several", "a", "b"], "give one table")):
        assert main(["predict", *words]) == 2
        assert said in capsys.readouterr().err


def test_evaluate_measures_a_table_as_the_run_did(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main(["evaluate", "several", "--data", "held.jsonl", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    after = json.loads((place / "several" / "summary.json").read_text())["scores"]["after"]["held"]
    assert told["examples"] == 6
    assert (told["accuracy"], told["loss"]) == pytest.approx((after["accuracy"], after["loss"]), rel=1e-4)
    assert main(["evaluate", "match", "--data", "test.jsonl"]) == 2
    assert "gives no classes to measure" in capsys.readouterr().err


def bad_rows(rows):
    """A table with one more row."""
    return [*({"image": f"{name}.png", "caption": TEXTS[name % 4]} for name in range(4)), *rows]


@pytest.mark.parametrize(
    "rows, words, said",
    [
        ([{"image": "gone.png", "caption": "a"}], [], "example 4: there is no file 'gone.png'; mend it, or"),
        ([{"image": "cut.png", "caption": "a"}], [], "example 4: image is no whole image"),
        ([{"image": "../up.png", "caption": "a"}], [], "row 4: '../up.png' leaves the folder"),
        ([{"image": "", "caption": ""}], [], "example 4 has none of image"),
        ([{"image": "1.png", "caption": ""}], [], "example 4 has no text, and a pair is compared side by side"),
        ([{"image": "1.png", "caption": 7}], [], "7 in column 'caption' is no text"),
        ([], ["--data.text", "words"], "has no column 'words' for 'text'; it has"),
        ([], ["--data.image", "photo"], "has no column 'photo' for 'image'; it has image, caption"),
        ([], ["--model.modalities", "text", "--data.image", "image"], "the model reads text; give it an encoder with"),
        ([], ["--model.modalities", "image", "smell"], "model.modalities has 'smell'; it takes image, text, audio"),
        ([], ["--data.broken", "mend"], "data.broken is 'mend'; use 'refuse' or 'skip'"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_a_sentence_before_anything_is_trained(rows, words, said, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (place / "cut.png").write_bytes((place / "1.png").read_bytes()[:50])
    write(place / "bad.jsonl", bad_rows(rows))
    base = ["run", "own/match", "--data.address", "bad.jsonl", "--data.held_out", "0", *TINY, "--out", "never"]
    assert main([*base, *words]) == 2
    told = capsys.readouterr().err
    assert said in told and told.startswith("error: ") and told.count("\n") == 1 and "Traceback" not in told
    assert not (place / "never").exists()


def sound(rate):
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(rate), file.writeframes(b"\1\2" * 1600)
    return stream.getvalue()


def tarred(path, members):
    with tarfile.open(path, "w") as file:
        for name, raw in members:
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            file.addfile(info, io.BytesIO(raw))


def test_sounds_and_tars_that_can_not_be_are_told_in_a_sentence(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    raw = (place / "1.png").read_bytes()
    (place / "fast.wav").write_bytes(sound(44100))
    write(place / "sounds.jsonl", [{"audio": "fast.wav", "text": "a film"}])
    tarred(place / "out.tar", [("../1.png", raw), ("1.txt", b"a film")])
    tarred(place / "twice.tar", [("1.png", raw), ("1.PNG", raw)])
    tarred(place / "lacks.tar", [("1.png", raw), ("1.txt", b"a film"), ("2.png", raw)])
    base = ["run", "own/match", "--data.held_out", "0", *TINY, "--out", "never", "--data.address"]
    for words, said in (
        (["sounds.jsonl", "--model.modalities", "text", "audio"], "has 44100 samples a second and 16000 are asked for"),
        (["out.tar"], "would be written outside"),
        (["twice.tar"], "'1.PNG' is there twice"),
        (["lacks.tar"], "example lacks.tar:2 has no text, and a pair is compared side by side"),
        (["gone/*.tar"], "no file fits 'gone/*.tar'"),
    ):
        assert main([*base, *words]) != 0
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1 and not (place / "never").exists()
    monkeypatch.setenv("FT_JAX_UNPACK_MOST", "100")
    tarred(place / "burst.tar", [("1.png", raw + bytes(900)), ("1.txt", b"a film")])
    assert main([*base, "burst.tar"]) != 0
    assert "no more than 100 are written" in capsys.readouterr().err


def first_of(spec, model):
    (task,) = spec.build(model, Feed(4))
    (batches,) = task.evaluations.values()
    return next(iter(batches))


def test_an_encoder_of_sound_that_is_drawn_learns(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (place / "a.wav").write_bytes(sound(16000))
    rows = [{"image": "1.png", "audio": "a.wav", "text": "a film", "label": label} for label in "ab"]
    write(place / "three.jsonl", [*rows, {"image": "", "audio": "a.wav", "text": "", "label": "a"}, *rows])
    words = ["--data.address", "three.jsonl", "--data.held_out", "0", "--model.modalities", "image", "text", "audio"]
    assert main(["run", "own/several", *words, *TINY, "--model.samples", "6400", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "model/encoders/audio/layers/*/mlp/up/kernel " in told and "audio/audio" in told
    model = Encoders(("image", "text"), "encoder", (8, 8, 1), 4, hidden=16, layers=1, width=16).build(None)
    assert "encoders/image/*" in model.drawn and "encoders/text/*" not in model.drawn


def test_tars_are_read_as_a_table_is(place, monkeypatch):
    monkeypatch.chdir(place)
    (place / "shards").mkdir()
    for number in (0, 1):
        images = [(f"{name}.png", (place / f"{name}.png").read_bytes()) for name in (2 * number, 2 * number + 1)]
        texts = [(f"{name}.txt", TEXTS[name % 4].encode()) for name in (2 * number, 2 * number + 1)]
        tarred(place / "shards" / f"{number}.tar", [*images, *texts])
    model = Encoders(("image", "text"), "encoder", (8, 8, 1), 4, hidden=16, layers=1, width=16).build(jax.random.key(0))
    write(place / "same.jsonl", [{"image": f"{name}.png", "caption": TEXTS[name % 4]} for name in range(4)])
    batches = [
        jax.tree.map(np.asarray, first_of(Together(address, address), model))
        for address in ("shards/*.tar", "same.jsonl")
    ]  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, *batches)


def test_sets_of_images_and_texts_of_tfds_are_read(place, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    TinyShapes(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    spec = Together("tfds:tiny_shapes:train", "tfds:tiny_shapes:test")
    model = Encoders(("image", "text"), "encoder", (8, 8, 1), 4, hidden=16, layers=1, width=16).build(jax.random.key(0))
    (task,) = spec.build(model, Feed(4))
    (batches,) = task.evaluations.values()
    assert task.examples == 20 and sum(len(batch["image"]["images"]) for batch in batches) >= 5
    first = data.load("tfds:tiny_shapes", split="test")[0]["images"]
    shown = next(iter(batches))["image"]["images"][0]
    corners = np.asarray(first, np.float32)[[0, 0, -1, -1], [0, -1, 0, -1], 0] / 255
    np.testing.assert_allclose(shown[[0, 0, -1, -1], [0, -1, 0, -1], 0], corners, atol=0.05)
    assert spec.outputs() == 2


def test_what_is_broken_is_left_out_and_counted_where_one_says_so(place, monkeypatch):
    monkeypatch.chdir(place)
    write(place / "some.jsonl", bad_rows([{"image": "gone.png", "caption": "a film"}]))
    network = Encoders(("image", "text"), "encoder", (8, 8, 1), 4, hidden=16, layers=1, width=16)
    (task,) = Together("some.jsonl", broken="skip", held_out=0.0).build(network.build(jax.random.key(0)), Feed(2))
    assert task.examples == 4
    with pytest.raises(ValueError, match="model.text names no text encoder"):
        Encoders().check()
    assert task.notes == ("1 of 5 examples of some were left out, the first is 4: there is no file 'gone.png'",)


def test_a_comparison_is_clips_loss_of_the_sides_and_leaves_out_what_lacks_one():
    image = models.build(models.ViTConfig((8, 8, 1), 4, 16, 1, 2, 16, classes=None), jax.random.key(0))
    text = models.tiny_encoder(jax.random.key(1))
    network = model({"image": image, "text": text}, "mean", width=8, key=jax.random.key(2))
    batch = {
        "image": {"images": jax.random.normal(jax.random.key(3), (3, 8, 8, 1)), "present": jnp.array([1.0, 1, 0])},
        "text": {"input_ids": jnp.arange(9).reshape(3, 3), "attention_mask": jnp.ones((3, 3), int)},
    }

    def loss(batch):
        program = make_step(alike(network.apply), optimizer(learning_rate=0.0))
        return float(program.evaluate(program.init(network.params, jax.random.key(0)), batch)[0]["task"])

    sides = [network.apply(network.params, {name: batch[name]}).hidden[:2] for name in batch]
    x, y = (side / jnp.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    assert loss(batch) == pytest.approx(float(contrastive(x, y, 20.0)), rel=1e-5)
    with pytest.raises(KeyError, match="needs both"):
        loss({"image": batch["image"]})
    with pytest.raises(ValueError, match="name two or more"):
        alike(network.apply, ("image",))


def test_a_part_learns_at_its_own_rate():
    params = {"model": {"encoders": {"text": jnp.ones(3)}, "head": jnp.ones(2)}}
    gradients = jax.tree.map(jnp.ones_like, params)
    spec = OptimizerSpec("sgd", learning_rate=0.5, rates={"model/encoders/text*": 0.1})
    made = spec.build(10)
    updates, _ = made.transform.update(
        gradients, made.transform.init(params), params,
        event=dataclasses.make_dataclass("Event", ["hyper", "step", "value", "value_at"])(
            {"optimizer": dict(made.hyper)}, 0, 0.0, None
        ),
    )  # fmt: skip
    assert updates["model"]["encoders"]["text"] == pytest.approx(-0.05) and updates["model"]["head"] == pytest.approx(
        -0.5
    )
    with pytest.raises(ValueError, match="no parameter that learns matches 'model/enc/\\*'"):
        rated(made, {"model/enc/*": 0.1}).transform.init(params)
    with pytest.raises(ValueError, match="optimizer.rates has -1 for"):
        OptimizerSpec(rates={"*": -1}).check()


def test_examples_that_show_the_same_are_right_answers_and_a_text_is_found_once():
    images = np.zeros((3, 2, 2, 1), np.float32)
    images[1] = 1
    right = right_pairs({"image": {"images": images}, "text": {"input_ids": np.array([[1], [2], [2]])}})
    assert right.astype(int).tolist() == [[1, 0, 1], [0, 1, 1], [1, 1, 1]]
    assert different({"input_ids": np.array([[1], [2], [1]])}, np.array([2, 0, 1])) == [2, 1]


def test_a_picture_in_the_page_is_the_image(tmp_path):
    import base64
    import io

    image = np.random.default_rng(0).random((5, 7, 3)).astype(np.float32)
    raw = base64.b64decode(png_of(image).partition(",")[2])
    seen = np.asarray(PIL.open(io.BytesIO(raw)), np.float32) / 255
    np.testing.assert_allclose(seen, image, atol=0.5 / 255 + 1e-6)


def test_attention_over_patches_is_the_class_tokens():
    network = models.vit(models.ViTConfig((8, 12, 1), 4, 16, 2, 2, 16), jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, 8, 12, 1))
    maps = network.configure(collect=("attention",)).apply(network.params, {"images": images}).states["attention/1"]
    expected = np.asarray(maps).mean(axis=1)[:, 0, 1:].reshape(2, 2, 3)
    expected /= expected.sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(patch_attention(network, network.params, images), expected, rtol=1e-5)
    assert patch_attention(models.tiny_encoder(jax.random.key(0)), {}, images) is None
