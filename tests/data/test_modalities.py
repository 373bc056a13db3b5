"""Examples of several modalities out of columns, files and tars; what is wrong is refused, or skipped and counted."""

import io
import json
import tarfile
import wave

import numpy as np
import pytest

from ft_jax import data
from ft_jax.assets.errors import AssetRefused
from ft_jax.data import Audio, Image, image_places, modalities, referenced, shards

PIL = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)
IMAGE = Image(size=(6, 5), channels=3)
AUDIO = Audio(rate=8000, samples=100)
PARTS = {"image": IMAGE, "audio": AUDIO}


def png(size=(5, 6), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    PIL.fromarray(pixels).save(stream, "PNG")
    return pixels, stream.getvalue()


def wav(samples, rate=8000, width=2):
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1), file.setsampwidth(width), file.setframerate(rate)
        whole = np.round(np.asarray(samples) * (2 ** (8 * width - 1) - 1)).astype(np.int64)
        if width == 1:
            raw = (whole + 128).astype(np.uint8).tobytes()
        else:
            raw = b"".join(int(one).to_bytes(width, "little", signed=True) for one in whole)
        file.writeframes(raw)
    return stream.getvalue()


def table(folder, rows):
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "t.jsonl"


@pytest.fixture
def files(tmp_path):
    pixels, raw = png()
    (tmp_path / "a.png").write_bytes(raw)
    (tmp_path / "cut.png").write_bytes(raw[: len(raw) // 2])
    sound = RNG.uniform(-1, 1, 80)
    (tmp_path / "a.wav").write_bytes(wav(sound))
    (tmp_path / "fast.wav").write_bytes(wav(sound, rate=16000))
    (tmp_path / "cut.wav").write_bytes(wav(sound)[:100])
    return tmp_path, pixels, sound


def test_files_that_a_table_names_become_parts_and_what_is_missing_says_so(files):
    folder, pixels, sound = files
    rows = [{"image": "a.png", "audio": "a.wav", "label": 1}, {"image": "a.png", "audio": None, "label": 0}]
    found = referenced(table(folder, rows), PARTS)
    assert not found.skipped and list(found.dataset.columns["labels"]) == [1, 0]
    batch = next(iter(data.evaluation_batches(found.dataset, 2)))
    np.testing.assert_allclose(batch["image"]["images"][0], pixels / 255.0, atol=1e-6)
    np.testing.assert_allclose(batch["audio"]["audio"][0, :80], sound, atol=1e-4)
    assert not batch["audio"]["audio"][0, 80:].any()
    assert batch["audio"]["present"].tolist() == [1.0, 0.0] and batch["image"]["present"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("row", "says"), (
    ({"image": "no.png"}, "example 1: there is no file 'no.png'"),
    ({"image": "cut.png"}, "example 1: image is no whole image"),
    ({"image": "a.wav"}, "example 1: image is no whole image"),
    ({"audio": "fast.wav"}, "example 1: audio has 16000 samples a second and 8000 are asked for"),
    ({"audio": "cut.wav"}, "example 1: audio is"),
))  # fmt: skip
def test_a_broken_example_is_refused_or_skipped_and_counted(files, row, says):
    folder, _, _ = files
    address = table(folder, [{"image": "a.png", "audio": "a.wav"}, {"image": None, "audio": None} | row])
    with pytest.raises(ValueError, match=says):
        referenced(address, PARTS)
    found = referenced(address, PARTS, broken="skip")
    assert len(found.dataset) == 1 and [one.example for one in found.skipped] == [1]
    assert str(found.skipped[0].reason) in says or says.split(": ", 1)[1] in found.skipped[0].reason


def test_examples_and_paths_that_can_not_be_are_refused(files):
    folder, _, _ = files
    with pytest.raises(ValueError, match="example 0 has none of image, audio"):
        referenced(table(folder, [{"image": None, "audio": None}, {"image": "a.png", "audio": None}]), PARTS)
    inner = folder / "inner"
    inner.mkdir()
    for path in ("../a.png", str(folder / "a.png")):
        with pytest.raises(ValueError, match="leaves the folder"):
            referenced(table(inner, [{"image": path, "audio": "x"}]), PARTS, broken="skip")
    (inner / "link.png").symlink_to(folder / "a.png")
    with pytest.raises(ValueError, match="leaves the folder"):
        referenced(table(inner, [{"image": "link.png", "audio": "x"}]), PARTS)
    with pytest.raises(KeyError, match="has no column 'audio' for 'audio'"):
        referenced(table(folder, [{"image": "a.png"}]), PARTS)
    with pytest.raises(ValueError, match=r"no example that can be read \(1 skipped\)"):
        referenced(table(folder, [{"image": "cut.png", "audio": None}]), PARTS, broken="skip")
    with pytest.raises(ValueError, match="broken is 'ignore'"):
        referenced(table(folder, [{"image": "a.png", "audio": None}]), PARTS, broken="ignore")


def test_an_image_that_claims_too_many_pixels_is_not_decoded(files, monkeypatch):
    folder, _, _ = files
    monkeypatch.setattr(data.media, "MOST_PIXELS", 20)
    with pytest.raises(ValueError, match="claims 5 x 6 pixels and 20 are allowed"):
        referenced(table(folder, [{"image": "a.png", "audio": None}]), PARTS)


@pytest.mark.parametrize("width", (1, 2, 3, 4))
def test_sounds_of_every_width_are_the_same_sound(tmp_path, width):
    sound = RNG.uniform(-0.9, 0.9, 50)
    (tmp_path / "a.wav").write_bytes(wav(sound, width=width))
    found = referenced(table(tmp_path, [{"audio": "a.wav"}]), {"audio": AUDIO})
    np.testing.assert_allclose(found.dataset[0]["audio"]["audio"][:50], sound, atol=2.0 ** (2 - 8 * min(width, 3)))


def tarred(path, members):
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def test_members_of_one_key_are_one_example(tmp_path):
    pixels, raw = png(seed=1)
    one = tarred(tmp_path / "a.tar", [("x/1.png", raw), ("x/1.txt", b"a cat\n"), ("x/1.cls", b"3"),
                                      ("x/2.txt", b"a dog"),
                                      ("x/2.wav", wav(np.zeros(10))), ("x/2.json", b'{"labels": 4}')])  # fmt: skip
    two = tarred(tmp_path / "b.tar", [("x/1.png", raw), ("x/1.txt", b"again"), ("x/1.cls", b"5")])
    parts = {"image": Image("jpg|png", (6, 5)), "audio": Audio("wav", 8000, 100)}
    found = shards([one, two], parts)
    assert list(found.dataset.columns["text"]) == ["a cat", "a dog", "again"]
    assert list(found.dataset.columns["labels"]) == [3, 4, 5]
    np.testing.assert_allclose(found.dataset[0]["image"]["images"], pixels / 255.0, atol=1e-6)
    assert [float(found.dataset[i]["image"]["present"]) for i in range(3)] == [1.0, 0.0, 1.0]
    cut = tarred(tmp_path / "c.tar", [("1.png", raw[:40]), ("2.png", raw)])
    with pytest.raises(ValueError, match="example c.tar:1: image is no whole image"):
        shards([cut], {"image": parts["image"]})
    assert [one.example for one in shards([cut], {"image": parts["image"]}, broken="skip").skipped] == ["c.tar:1"]


def test_a_tar_that_escapes_bursts_or_links_is_refused(tmp_path, monkeypatch):
    parts = {"image": Image("png", (6, 5))}
    raw = png()[1]
    with pytest.raises(AssetRefused, match="would be written outside"):
        shards([tarred(tmp_path / "a.tar", [("../1.png", raw)])], parts)
    link = tmp_path / "b.tar"
    with tarfile.open(link, "w") as file:
        info = tarfile.TarInfo("1.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(info)
    with pytest.raises(AssetRefused, match="link, a device or a sparse file"):
        shards([link], parts)
    monkeypatch.setenv("FT_JAX_UNPACK_MOST", "100")
    with pytest.raises(AssetRefused, match="no more than 100 are written"):
        shards([tarred(tmp_path / "c.tar", [("1.png", raw)])], parts)
    monkeypatch.delenv("FT_JAX_UNPACK_MOST")
    with pytest.raises(ValueError, match="is there twice"):
        shards([tarred(tmp_path / "d.tar", [("1.png", raw), ("1.PNG", raw)])], parts)
    with pytest.raises(ValueError, match=r"example e.tar:1 can't be read"):
        shards([tarred(tmp_path / "e.tar", [("1.png", raw), ("1.json", b"[1]")])], parts)


def test_columns_become_parts_of_one_shape_whatever_a_batch_lacks():
    images = [np.ones((2, 2, 1), np.float32), None, None, np.zeros((2, 2, 1), np.float32)]
    ids = [np.array([4, 5, 6]), np.array([7]), np.array([8, 9]), None]
    both = modalities(
        data.Dataset({"images": images, "input_ids": ids, "labels": np.arange(4)}), image="images", text="input_ids"
    )
    shapes = set()
    for batch in data.evaluation_batches(both, 2, length=3):
        shapes.add((batch["image"]["images"].shape, batch["text"]["input_ids"].shape))
    assert shapes == {((2, 2, 2, 1), (2, 3))} and batch["text"]["present"].tolist() == [1.0, 0.0]
    assert batch["text"]["attention_mask"].tolist() == [[1, 1, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="example 1 has none of image"):
        modalities(data.Dataset({"images": images}), image="images")
    with pytest.raises(KeyError, match="no column 'pictures'"):
        modalities(data.Dataset({"images": images}), image="pictures")


def test_a_prompt_has_one_place_for_its_image():
    for prompt in ("What is it?", "<image> and <image>"):
        with pytest.raises(ValueError, match="places for its image; write <image> in it once"):
            image_places(prompt, 4)
