"""What the multimodal experiments are made of, and the page that shows what they measured."""

import importlib

import numpy as np
import pytest

from experiments.multimodal import scene_writing, scenes, table, three_modalities
from experiments.study import run
from ft_jax.training import Feed


def test_a_caption_says_what_stands_where_and_its_tokens_say_it_again():
    assert len({scenes.caption(content, first) for content in range(scenes.CONTENTS) for first in (0, 1)}) == 800
    for content in (0, 77, 399):
        for first in (0, 1):
            text = scenes.caption(content, first)
            ids = scenes.tokens(text)
            assert scenes.text_of(ids) == text and ids.argmax() == len(ids) - 1 == scenes.TEXT.positions - 1
        left, right = scenes.sides(content)
        assert scenes.caption(content).split()[1:3] == list(left) and scenes.caption(content, 1).split()[1:3] == list(
            right
        )
        assert scenes.DIGITS[scenes.left_digit(content)] == left[1]


def test_a_scene_shows_each_digit_in_its_half_a_large_one_at_twice_the_size():
    images, places = scenes.digits("digits", "train")
    content = next(c for c in range(scenes.CONTENTS) if scenes.sides(c) == (("large", "three"), ("small", "seven")))
    scene = scenes.draw(content, np.random.default_rng(0))[..., 0]
    large, small = scene[:, :16], scene[:, 16:]
    threes = np.kron(images[places[3]], np.ones((2, 2)))
    assert np.any(np.all(threes == large, axis=(1, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(small, (8, 8)).reshape(-1, 1, 8, 8)
    assert np.any(np.all(windows == images[places[7]], axis=(2, 3)))
    assert small.sum() == pytest.approx(windows.sum(axis=(1, 2, 3)).max())


def test_every_content_is_tested_once_on_digits_that_training_never_shows():
    (task,) = scenes.Scenes(count=400, dim=True).build(None, Feed(batch_size=8, seed=0))
    held_out = {
        name: np.concatenate([batch["labels"] for batch in task.evaluations[name]]) for name in task.evaluations
    }
    assert all(sorted(labels) == list(range(scenes.CONTENTS)) for labels in held_out.values())
    shown, hidden = ({image.tobytes() for image in scenes.digits("digits", split)[0]} for split in ("train", "test"))
    assert hidden and len(shown & hidden) == 0
    light, dim = (
        np.concatenate([batch["images"] for batch in task.evaluations[name]]) for name in ("scenes", "dim scenes")
    )
    wall = (dim - 0.3 * light)[0, 0, :, 0]
    np.testing.assert_allclose(dim - 0.3 * light, np.broadcast_to(wall[:, None], light.shape), atol=1e-6)
    assert np.all(np.diff(wall) < 0) and wall[[0, -1]].tolist() == pytest.approx([0.5, 0.2])


def test_recall_takes_another_scene_of_the_same_content_for_right():
    features = {"image": np.eye(4)[[0, 1, 2, 3]], "text": np.eye(4)[[0, 1, 3, 2]]}
    # The last two images are nearest to each other's texts, which is right where their contents are one.
    for contents, share in (([5, 6, 7, 8], 0.5), ([5, 6, 7, 7], 1.0)):
        assert scenes.RECALLS["image_to_text"].score(features, {"labels": np.array(contents)}) == share
    assert scenes.prompts().shape == (10, 40, 9)


def test_every_second_letter_of_a_name_is_another_and_what_is_not_typed_is_hidden():
    generator = np.random.default_rng(0)
    typed = [three_modalities.typed(1, generator) for _ in range(2000)]
    assert all(one["attention_mask"].tolist() == [1, 1, 1, 0, 0] for one in typed)
    letters = np.array([one["input_ids"] for one in typed])
    right = letters[:, :3] == [ord(letter) - ord("a") for letter in "one"]
    np.testing.assert_allclose(right.mean(axis=0), 0.5, atol=0.04)
    assert set(letters[:, :3].ravel()) == set(range(26)) and np.all(letters[:, 3:] == 26)


@pytest.fixture
def made_up(monkeypatch):
    """Signals of MNIST-1D's shape that say their digit."""
    labels = np.arange(40) % 10
    splits = {
        split: {"signal": np.float32(np.tile(labels[:, None] + step, 40)), "labels": labels}
        for split, step in (("train", 0.0), ("test", 0.5))
    }
    monkeypatch.setattr(three_modalities, "signals", lambda: splits)
    three_modalities.by_digit.cache_clear()
    yield splits
    three_modalities.by_digit.cache_clear()


def test_a_digits_modalities_are_of_one_digit(made_up):
    for split, step in (("train", 0.0), ("test", 0.5)):
        some = three_modalities.collected(split, 30, 0)
        shown = np.array([one["signals"] for one in some.column("signal")])
        scale = made_up["train"]["signal"].std()
        np.testing.assert_allclose(shown[:, 0] * scale - step, some.column("labels"), rtol=1e-5, atol=1e-5)


def test_the_writer_is_asked_for_the_caption_alone():
    one = scene_writing.with_captions(scenes.drawn(3, 0))[0]
    ids, labels, counted = one["input_ids"], one["labels"], one["weights"] > 0
    assert np.all(ids[: scene_writing.PLACES] == scene_writing.IMAGE) and scenes.END not in ids
    said = scenes.text_of(labels[counted])
    assert said.split()[0] == "a" and said.split()[3:5] == ["left", "of"] and labels[counted][-1] == scenes.END
    assert np.array_equal(ids[1:], labels[:-1]) and counted.sum() == len(said.split()) + 1


@pytest.mark.parametrize("name", table.NAMES)
def test_the_experiments_can_be_run_as_they_are_written(name):
    module = importlib.import_module(f"experiments.multimodal.{name}")
    for variant in (module.experiment, *module.baselines.values()):
        variant.check()
    assert module.seeds == 3 and module.experiment.name == f"multimodal/{name}"


@pytest.mark.experiment
@pytest.mark.parametrize("name", sorted({line["experiment"] for line in table.lines()}))
def test_an_experiment_says_again_what_is_recorded(name, tmp_path):
    _, claims = run(f"multimodal/{name}", tmp_path)
    met = [line["met"] for line in table.lines() if line["experiment"] == name and line["kind"] == "claim"]
    assert [claim.met for claim in claims] == met


def test_what_is_recorded_is_of_the_experiments():
    recorded = table.lines()
    assert {line["experiment"] for line in recorded} <= set(table.NAMES) and recorded
    for line in recorded:
        assert line["kind"] == "claim" or np.isfinite(line["values"]).all()


def test_a_network_of_chosen_modalities_reads_their_parts_alone(made_up):
    few = three_modalities.collected("test", 4, 0)
    assert few.select("signal", "labels").columns.keys() == {"signal", "labels"}
    model = three_modalities.Network(("signal",)).build(None)
    assert set(model.params["encoders"]) == {"signal"}
    assert set(three_modalities.conditions(("signal",))) == {"clean", "signal corrupted", "all corrupted by half"}
