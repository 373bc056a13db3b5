import dataclasses
import functools
import tempfile
import types
from pathlib import Path

import numpy as np
import optuna
import pytest
from training.small import Points, experiment, points

from ft_jax.data import Dataset, folds
from ft_jax.training import Budget, Feed, OptimizerSpec, Use, fit
from ft_jax.training.own_data import Labelled
from ft_jax.training.specs import Pretrained
from ft_jax.training.sweeps import Folded, Sweep, members, winner, work, write_sweep_report, write_winner
from ft_jax.training.sweeps.folded import HELD_OUT
from ft_jax.training.sweeps.together import AllFolds
from ft_jax.tuning.search import Search

BASE = experiment(budget=Budget(steps=3, batch_size=8), evaluation=experiment().evaluation.__class__(metric="loss"))

EPOCHS = dataclasses.replace(BASE, budget=Budget(epochs=1, batch_size=8))


def sweep(folder, **changes) -> Sweep:
    made = Sweep(
        BASE,
        {"optimizer.learning_rate": "1e-3..1:log"},
        trials=3,
        search=Search("random", seed=2),
        folds=2,
        out=folder,
    )
    return dataclasses.replace(made, **changes)


def run(made: Sweep):
    made.check()
    made.open().plan(made.trials)
    assert work(made)
    return made.open().study


@functools.cache
def ended():
    made = sweep(Path(tempfile.mkdtemp()))
    return made, run(made)


def test_an_objective_that_is_not_measured_is_refused_before_there_is_a_study(tmp_path):
    made = sweep(tmp_path / "own", objectives=("max:acuracy",))
    with pytest.raises(KeyError, match="objective 'acuracy' isn't measured; the nearest of what is are accuracy"):
        work(made)
    assert not (tmp_path / "own").exists()


def complete(study):
    return [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]


def test_a_trial_is_the_mean_of_runs_on_what_the_folds_hold_out():
    made, study = ended()
    trial = complete(study)[1]
    losses = []
    for fold in range(2):
        one = dataclasses.replace(
            BASE,
            optimizer=OptimizerSpec("adam", trial.params["optimizer.learning_rate"]),
            data=Folded(Points(), 2, fold, "stratified"),
            out=str(made.folder / f"by-hand-{fold}"),
        )
        losses.append(fit(one, quiet=True).scores["after"][HELD_OUT]["loss"])
    assert trial.value == pytest.approx(np.mean(losses), rel=1e-6)
    assert [fold[0] for fold in trial.user_attrs["folds"]] == pytest.approx(losses, rel=1e-6)


def test_the_winner_is_written_as_an_experiment_that_has_its_values(tmp_path):
    from ft_jax.cli.experiments import load

    made, study = ended()
    won = winner(made, study)
    assert won.objectives["loss"] == min(trial.value for trial in complete(study))
    base = tmp_path / "base.py"
    base.write_text("from training.small import experiment as make\n\nexperiment = make()\n")
    written = load(write_winner(made, won, base, tmp_path / "winner.py", ("--budget.steps", "7")))
    assert written.optimizer.learning_rate == won.values["optimizer.learning_rate"] and written.budget.steps == 7
    assert written.name == "points-winner"


def test_the_page_names_the_winner_and_draws_three_pictures(tmp_path):
    made, study = ended()
    made = dataclasses.replace(made, trials=5)
    study = run(made)
    page = write_sweep_report(made, made.open(), tmp_path / "page.html", "ft-jax run winner.py").read_text()
    assert page.count("<svg") == 3 and f"trial {winner(made, study).slot}" in page and "ft-jax run winner.py" in page
    assert len(complete(study)) == 5


def test_a_finished_sweep_trains_nothing_again_and_another_one_is_refused(tmp_path):
    made, study = ended()
    count = len(study.trials)
    assert len(run(made).trials) == count
    with pytest.raises(ValueError, match=r"holds another sweep called 'points', whose space.optimizer.learning_rate"):
        dataclasses.replace(made, space={"optimizer.learning_rate": "1e-2..1:log"}).open()


def test_trials_in_one_program_are_the_trials_one_by_one(tmp_path):
    _, study = ended()
    together = run(sweep(tmp_path, together=3))
    alone = {trial.user_attrs["slot"]: trial for trial in complete(study)}
    for trial in complete(together):
        same = alone[trial.user_attrs["slot"]]
        assert trial.params == same.params and trial.value == pytest.approx(same.value, rel=1e-4)
    assert len(list((tmp_path / "trials").iterdir())) == 1


def test_as_many_members_as_memory_takes_by_the_compiled_step(tmp_path):
    made = sweep(tmp_path, together=0)
    made.check()
    values = [{"optimizer.learning_rate": 0.1}]
    eight = members.bytes_of_step(members.as_members(made, values * 8, 0))
    assert members.fitting(made, eight + 1) in (7, 8, 9) and members.fitting(made, 1) == 1
    shapes = dataclasses.replace(made, space={"model.width": "4,8"})
    assert members.fitting(shapes, 10**12) == 1


def test_what_cannot_be_built_or_is_not_a_number_fails_alone(tmp_path):
    def odd(parts):
        raise ValueError("this can't be built")

    made = sweep(
        tmp_path,
        folds=1,
        space={"data.spoil": "None,1e39"},
        trials=2,
        search=Search("grid"),
        experiment=dataclasses.replace(BASE, budget=Budget(steps=12, batch_size=8)),
    )
    study = run(made)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "FAIL"] and "finite" in study.trials[1].user_attrs["why"]
    with pytest.raises(ValueError, match="this can't be built"):  # None can.
        work(sweep(tmp_path / "b", experiment=dataclasses.replace(BASE, method=(odd,)), trials=1))
    assert not (tmp_path / "b").exists()
    ranks = {"method.transfer.lora.rank": "2,999"}
    adapted = dataclasses.replace(BASE, method=(Use("transfer.lora", rank=2, targets=("*/kernel",)),))
    some = run(sweep(tmp_path / "c", folds=1, experiment=adapted, space=ranks, trials=2, search=Search("grid")))
    assert [trial.state.name for trial in some.trials] == ["COMPLETE", "FAIL"]
    assert "999" in some.trials[1].user_attrs["why"]
    assert winner(made, optuna.create_study()) is None


def test_wilcoxon_gives_a_clearly_worse_trial_up_after_some_folds(tmp_path, monkeypatch):
    def fitted(one, **_):
        loss = 1 / one.optimizer.learning_rate + one.data.index
        return types.SimpleNamespace(status="finished", scores={"after": {HELD_OUT: {"loss": loss}}})

    # What is trained doesn't matter here, only what comes of it.
    monkeypatch.setattr("ft_jax.training.sweeps.worker.fit", fitted)
    made = sweep(
        tmp_path,
        space={"optimizer.learning_rate": "0.5,0.1,1.0"},
        folds=6,
        search=Search("grid", pruner="wilcoxon"),
    )
    first, worse, better = run(made).trials
    assert first.state.name == better.state.name == "COMPLETE" and worse.state.name == "PRUNED"
    assert len(worse.user_attrs["folds"]) == 4 and "after 4 of 6 folds" in worse.user_attrs["why"]
    assert better.value == 1 + 2.5


def test_several_objectives_give_a_front(tmp_path):
    made = sweep(
        tmp_path,
        space={"model.width": "2,8"},
        trials=2,
        folds=1,
        search=Search("grid"),
        objectives=("loss", "parameters", "latency"),
    )
    study = run(made)
    small, large = complete(study)
    assert small.values[1] < large.values[1] and all(trial.values[2] > 0 for trial in (small, large))
    assert set(winner(made, study).front) >= {0}


def test_folds_cut_the_training_examples_and_read_nothing_else():
    for index, (train, held) in enumerate(folds(3, 50, kind="stratified", labels=points(50, 2).columns["labels"])):
        [task] = Folded(Points(), 3, index).build(None, Feed(8))
        assert task.examples == len(train)
        seen = np.concatenate([batch["labels"][batch["weights"] > 0] for batch in task.evaluations[HELD_OUT]])
        np.testing.assert_array_equal(seen, points(50, 2).columns["labels"][held])


@pytest.mark.parametrize("folded", [lambda data: Folded(data, 3, 0), lambda data: AllFolds(data, 3)])
def test_a_head_for_folds_has_as_many_classes_as_all_of_the_data(tmp_path, folded):
    rows = [("good", "positive"), ("bad", "negative"), ("odd", "neither")] * 3
    file = tmp_path / "own.csv"
    file.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    spec = Pretrained("a model", classes="data")
    assert spec.for_data(folded(Labelled(str(file)))).classes == 3
    with pytest.raises(ValueError, match="Points doesn't say how many classes it has"):
        spec.for_data(folded(Points()))


@dataclasses.dataclass(frozen=True)
class Grouped:
    """Points of which two and two belong together."""

    def build(self, model, feed):
        [task] = Points(count=48).build(model, feed)
        plan = task.train.plan
        owners = Dataset({**plan.dataset.columns, "owner": [f"p{i // 2}" for i in range(48)]})
        from ft_jax.data import batches
        from ft_jax.training import Task

        return (Task("grouped", batches(owners, feed.batch_size), task.evaluations, 48),)


def test_what_belongs_together_stays_in_one_fold_and_out_of_the_batches():
    held = []
    for index in range(4):
        [task] = Folded(Grouped(), 4, index, group="owner").build(None, Feed(8))
        assert "owner" not in next(task.train)
        held.append(np.concatenate([batch["x"][batch["weights"] > 0] for batch in task.evaluations[HELD_OUT]]))
    assert sum(map(len, held)) == 48 and all(len(part) % 2 == 0 for part in held)
    with pytest.raises(ValueError, match="no column 'oner' to group by; the nearest are owner"):
        Folded(Grouped(), 4, 0, group="oner").build(None, Feed(8))


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"space": {"optimizer.learning_rat": "1e-3..1"}}, KeyError, "nearest are optimizer.learning_rate"),
        (
            {"space": {"optimizer.learning_rate": "-1.0..1.0"}},
            ValueError,
            "the space gives optimizer.learning_rate the",
        ),
        ({"space": {"budget.steps": "0.5..2.5"}}, ValueError, "takes int | None"),
        ({"space": {}}, ValueError, "the space is empty"),
        ({"trials": None}, ValueError, "needs a number of trials"),
        ({"together": 2, "experiment": EPOCHS}, ValueError, "give budget.steps"),
        ({"folds": 0}, ValueError, "folds=0"),
        ({"objectives": ("accuracy",)}, ValueError, "write max:accuracy or min:accuracy"),
        ({"objectives": ("loss", "seconds"), "search": Search("cma")}, ValueError, "searches"),
        ({"together": 2, "search": Search(pruner="median")}, ValueError, "stops one trial"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_training(tmp_path, changes, error, message):
    with pytest.raises(error) as told:
        sweep(tmp_path, **changes).check()
    assert message in str(told.value)


def test_more_folds_than_examples_are_refused_before_there_is_a_study(tmp_path):
    with pytest.raises(ValueError, match="50 examples don't make 60 folds"):
        work(sweep(tmp_path / "own", trials=1, folds=60))
    assert not (tmp_path / "own").exists()


def test_ranks_under_a_maximum_are_trials_of_one_program(tmp_path):
    methods = (Use("ensemble.ranks", rank=4), Use("transfer.lora", rank=4, targets=("*/layer/kernel",)))
    space = {"method.ensemble.ranks.rank": "1,2,4"}
    made = sweep(
        tmp_path, experiment=dataclasses.replace(BASE, method=methods), folds=1, space=space, search=Search("grid")
    )
    assert members.numbers_of(made.experiment, space) == {"method.ensemble.ranks.rank": "ensemble.ranks.rank"}
    apart = [trial.values for trial in complete(run(made))]
    made = dataclasses.replace(made, together=3, out=tmp_path / "together")
    together = [trial.values for trial in complete(run(made))]
    assert len(apart) == 3 and len({tuple(one) for one in apart}) == 3
    np.testing.assert_allclose(together, apart, rtol=1e-4)


def test_a_method_is_a_field_too(tmp_path):
    base = dataclasses.replace(BASE, method=(Use("transfer.lora", rank=2, targets=("layer",)),))
    made = sweep(tmp_path, experiment=base, space={"method.transfer.lora.rank": "1,2"})
    made.check()
    assert made.with_values({"method.transfer.lora.rank": 1}).method[0].options["rank"] == 1
