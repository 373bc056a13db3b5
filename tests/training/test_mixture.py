"""Several sources as one: fixed shares, draws by a method of the run, places, and what is refused."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from training.serving import small_runs

from ft_jax import data
from ft_jax.training import Experiment, Feed, Task, Use
from ft_jax.training.own_data import Labelled, Mixture
from ft_jax.training.own_data.mixture import Drawn


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of one number, of so many tokens."""

    value: int
    examples: int = 6
    tokens: int = 3
    classes: tuple[str, ...] = ()

    def build(self, model, feed):
        ids = [np.full(self.tokens, self.value) for _ in range(self.examples)]
        rows = data.Dataset({"input_ids": ids, "labels": list(range(self.examples))})
        return (Task(f"rows {self.value}", data.batches(rows, feed.batch_size, seed=feed.seed), {}, self.examples),)


def built(mixture, rows=2):
    mixture.check()
    (task,) = mixture.build(None, Feed(rows, seed=3))
    return task


def test_batches_come_from_the_sources_in_their_shares():
    task = built(Mixture((Rows(5), Rows(7, tokens=5)), shares=(3.0, 1.0)))
    found = list(itertools.islice(task.train, 400))
    assert {batch["input_ids"].shape for batch in found} == {(2, 5)}
    short = next(batch for batch in found if batch["source"][0] == 0)
    assert short["input_ids"].tolist() == [[5, 5, 5, 0, 0]] * 2
    assert short["attention_mask"].tolist() == [[1, 1, 1, 0, 0]] * 2
    assert all((batch["input_ids"][:, 0] == (5, 7)[batch["source"][0]]).all() for batch in found)
    assert {float(batch["chance"][0]) for batch in found} == {0.75, 0.25}
    # 400 draws of a coin of 3/4: within four deviations.
    assert abs(np.mean([batch["source"][0] == 0 for batch in found]) - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 400)
    sizes = built(Mixture((Rows(5, examples=6), Rows(7, examples=2)))).train
    assert next(sizes)["chance"][0] in (0.75, 0.25)


def test_it_goes_on_from_a_place_with_the_same_batches():
    train = built(Mixture((Rows(5), Rows(7)), shares=(1.0, 1.0))).train
    next(train)
    place = json.loads(json.dumps(train.get_state()))
    rest = [next(train) for _ in range(8)]
    again = built(Mixture((Rows(5), Rows(7)), shares=(1.0, 1.0))).train
    again.set_state(place)
    for one in rest:
        other = next(again)
        assert one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def test_a_run_draws_by_what_its_method_remembers(tmp_path):
    model = small_runs.encoder_folder(tmp_path / "model", layers=1)
    files = [small_runs.texts(tmp_path / "first.csv", 2), small_runs.texts(tmp_path / "second.csv", 3)]
    mixture = Mixture(tuple(Labelled(str(file), length=16) for file in files), by="adaptive.data_mixing")
    method = (Use("adaptive.data_mixing", sources=2), Use("transfer.lora", rank=2, also=("*/head/*",)))
    plain = small_runs.classifier(model, files[0], "mixed", method=method)
    result = small_runs.run(dataclasses.replace(plain, data=mixture), tmp_path / "run")
    own = result.state.memory["adaptive.data_mixing"]
    assert int(own["turns"]) == 12 and own["drawn"].sum() == 12 * 8 and np.isclose(own["chances"].sum(), 1)
    assert set(result.scores["after"]) == {"held-out first", "held-out second"}
    lines = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    assert any("adaptive.data_mixing.chance_1" in line for line in lines)


@pytest.mark.parametrize(
    ("mixture", "told"),
    [
        (Mixture(()), "data.sources is empty"),
        (Mixture((Rows(1), Rows(2)), shares=(1.0,)), r"data.shares is \(1.0,\) for 2 sources"),
        (Mixture((Rows(1), Rows(2)), shares=(1.0, 0.0)), "give a positive number for each"),
        (Mixture((Rows(1),), shares=(1.0,), by="adaptive.data_mixing"), "both say how sources are drawn"),
    ],
)
def test_shares_that_mean_nothing_are_refused(mixture, told):
    with pytest.raises(ValueError, match=told):
        mixture.check()


def test_sources_that_do_not_go_together_are_refused():
    class Named(Rows):
        def build(self, model, feed):
            return (dataclasses.replace(super().build(model, feed)[0], classes=self.classes),)

    with pytest.raises(ValueError, match="the sources have different classes"):
        built(Mixture((Named(1, classes=("a", "b")), Named(2, classes=("b", "a")))))
    other = data.batches(data.Dataset({"x": [1.0, 2.0]}), 2)
    with pytest.raises(ValueError, match="batches have different fields, attention_mask, input_ids, labels and x; mix"):
        Drawn([built(Mixture((Rows(1),))).train._sources[0], other], 0, np.ones(2), 0)


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ((), "data.by is 'adaptive.data_mixing', and the run's methods with a memory are none"),
        ((Use("adaptive.data_mixing", sources=3),), "draws from 3 sources and the data has 2; give it sources=2"),
    ],
)
def test_a_run_without_the_method_that_draws_is_refused_before_it_begins(tmp_path, method, told):
    model = small_runs.encoder_folder(tmp_path / "model", layers=1)
    file = small_runs.texts(tmp_path / "texts.csv", 2)
    mixture = Mixture((Labelled(str(file), length=16),) * 2, by="adaptive.data_mixing")
    plain = small_runs.classifier(model, file, "mixed", method=(*method, Use("transfer.full")))
    experiment: Experiment = dataclasses.replace(plain, data=mixture)
    with pytest.raises((ValueError, KeyError), match=told):
        small_runs.run(experiment, tmp_path / "run")
