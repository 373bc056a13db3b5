"""A head that was drawn learns unless somebody says no, and a run that can't learn says so before it starts."""

import dataclasses

import jax
import pytest
from training import small
from training.serving import small_runs

from ft_jax import models
from ft_jax.core import Method
from ft_jax.models import EncoderConfig
from ft_jax.training import Budget, Experiment, Use, prepare
from ft_jax.training.prepare import notes_of


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    return small_runs.encoder_folder(folder / "encoder"), small_runs.texts(folder / "reviews.csv")


FREEZING = {
    "transfer.lora": {"rank": 2},
    "attention.ia3": {},
    "attention.p_tuning_v2": {"length": 2},
    "transfer.bitfit": {},
    "transfer.norm_tuning": {},
}


@pytest.mark.parametrize("name", FREEZING)
def test_a_new_head_learns_beside_every_method_that_freezes_the_base(name, place):
    plan = prepare(small_runs.classifier(*place, "heads", method=(Use(name, **FREEZING[name]),)))
    learned = plan.parameters()["leaves"]
    assert {"model/head/kernel", "model/head/bias"} <= learned.keys()
    assert not any(path.endswith("query/kernel") for path in learned)


def test_a_head_that_was_loaded_stays_frozen_unless_it_is_asked_to_learn(place, tmp_path):
    encoder, file = place
    model = models.with_classifier(models.load(encoder), 2, jax.random.key(0))
    folder = models.save(model, model.params, tmp_path / "classifier")
    experiment = small_runs.classifier(folder, file, "loaded", method=(Use("transfer.lora", rank=2),))
    experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, classes=None))
    assert not any("head" in path for path in prepare(experiment).parameters()["leaves"])


def test_no_adapter_stands_on_what_the_pooling_never_reads(place):
    for pooling, wanted in (("mean", False), ("cls", False), ("pooler", True)):
        plan = prepare(small_runs.classifier(*place, "pooled", pooling, method=(Use("transfer.lora", rank=2),)))
        assert any("pooler" in path for path in plan.parameters()["leaves"]) is wanted


def test_a_run_in_which_nothing_learns_is_refused():
    frozen = Method(name="mine.frozen", trainable=lambda path, leaf: False)
    experiment = Experiment("nothing", small.Linear(), small.Points(), method=(frozen,), budget=Budget(steps=1))
    with pytest.raises(ValueError, match="nothing learns: mine.frozen freeze every parameter"):
        prepare(experiment)


def test_what_was_drawn_and_stays_frozen_is_said():
    config = EncoderConfig(vocabulary=40, width=16, layers=1, heads=2, mlp_width=32, positions=32)

    @dataclasses.dataclass(frozen=True)
    class Random:
        def build(self, key):
            return models.with_classifier(models.build(config, key), 3, key)

    adapter, budget = Use("transfer.lora", rank=2), Budget(steps=1, batch_size=8)
    plan = prepare(Experiment("random", Random(), small_runs.Words(), method=(adapter,), budget=budget))
    assert any("were drawn at random and do not learn" in note for note in notes_of(plan))
