"""A kept model of several modalities answers to one example's files and text, any of them missing."""

import dataclasses
import io
import json
import wave

import jax
import numpy as np
import pytest
from training.serving import small_runs

from ft_jax import data, models
from ft_jax.cli import main
from ft_jax.multimodal import model as multimodal_model
from ft_jax.training.serving.kept import keep, load_run
from ft_jax.training.serving.several import predict_parts

PIL = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    small_runs.encoder_folder(folder / "encoder")
    encoders = {
        "image": models.build(models.ViTConfig((8, 8, 1), 4, 16, 1, 2, 16, classes=None), jax.random.key(0)),
        "audio": models.build(models.SignalConfig(1600, 2, 16, 1, 2, 16, mels=8), jax.random.key(1)),
        "text": models.load(folder / "encoder"),
    }
    model = multimodal_model(encoders, "gate", 3, width=16, key=jax.random.key(2))
    model = dataclasses.replace(model, classes=("one", "two", "three"))
    run = folder / "run"
    run.mkdir()
    (run / "experiment.json").write_text("{}")
    (run / "summary.json").write_text(json.dumps({"status": "finished"}))
    keep(run, model, model.params, None, {})
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    PIL.fromarray(pixels).save(folder / "a.png")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:40])
    sound = np.random.default_rng(1).integers(-9000, 9000, 1600).astype("<i2")
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000), file.writeframes(sound.tobytes())
    (folder / "a.wav").write_bytes(stream.getvalue())
    return folder, model, pixels, sound


def test_predict_reads_files_and_text_as_the_model_does(place, capsys):
    folder, model, pixels, sound = place
    words = ["predict", str(folder / "run"), "--image", str(folder / "a.png"), "--audio", str(folder / "a.wav")]
    assert main([*words, "--text", "a good film"]) == 0
    shown = json.loads(capsys.readouterr().out)
    tokens = data.tokenize(data.Dataset({"text": ["a good film"]}), model.tokenizer, length=32)
    batch = {
        "image": {"images": pixels[None, ..., None] / np.float32(255)},
        "audio": {"audio": sound[None] / np.float32(2**15)},
        "text": {"input_ids": np.asarray(tokens[0]["input_ids"])[None]},
    }
    expected = jax.nn.softmax(model.apply(model.params, batch).logits[0])
    np.testing.assert_allclose(list(shown["probabilities"].values()), expected, atol=2e-6)
    assert shown["label"] == model.classes[int(expected.argmax())]
    assert main([*words[:4]]) == 0
    alone = jax.nn.softmax(model.apply(model.params, {"image": batch["image"]}).logits[0])
    np.testing.assert_allclose(list(json.loads(capsys.readouterr().out)["probabilities"].values()), alone, atol=2e-6)


def test_what_can_not_be_read_is_refused(place):
    folder, *_ = place
    kept = load_run(folder / "run")
    for parts, says in (
        ({}, "no input is given"),
        ({"table": "x.csv"}, "has no modality 'table'; it has image, audio, text"),
        ({"image": folder / "cut.png"}, "is no whole image"),
        ({"audio": folder / "a.png"}, "is no whole wav file"),
    ):
        with pytest.raises(ValueError, match=says):
            predict_parts(kept, parts)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        predict_parts(kept, {"image": folder / "no.png"})
