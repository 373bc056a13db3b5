"""A finished run that is given more steps goes on from its end, as a run of so many steps would have."""

import dataclasses
import json

import pytest
from training.small import experiment, same_bits

from ft_jax.training import Budget, OptimizerSpec, Use, fit
from ft_jax.training.run_folder import RunRefused, read_sealed, write_sealed


def small(folder, steps, **changes):
    return experiment(budget=Budget(steps=steps, batch_size=8), out=str(folder), **changes)


def events(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "event"]


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    return fit(small(tmp_path_factory.mktemp("whole") / "run", 8), quiet=True)


def test_more_steps_give_the_bits_of_a_run_that_had_them_from_the_start(tmp_path, eight):
    fit(small(tmp_path / "run", 6), quiet=True)
    more = fit(small(tmp_path / "run", 8), quiet=True)
    same_bits(more.state.params, eight.state.params)
    same_bits(more.state.opt_state, eight.state.opt_state)
    assert more.status == "finished" and more.summary["steps"] == 8 and more.scores["after"] == eight.scores["after"]
    record = json.loads((tmp_path / "run" / "experiment.json").read_text())
    assert record["went_on"] == [{"field": "budget.steps", "from": 6, "to": 8, "step": 6}]
    again = fit(small(tmp_path / "run", 8), quiet=True)
    assert again.compilations == 0


def test_the_log_says_what_the_schedule_did(tmp_path):
    spec = OptimizerSpec("adam", 0.02, schedule="linear")
    fit(small(tmp_path / "run", 4, optimizer=spec), quiet=True)
    fit(small(tmp_path / "run", 8, optimizer=spec), quiet=True)
    (said,) = (one["message"] for one in events(tmp_path / "run") if one.get("cause") == "more steps")
    assert said.startswith("went on to 8 steps under the linear schedule of 8") and "was 0.25 in the last of 4" in said
    assert said.endswith("is 0.5 in the next")


@pytest.mark.parametrize(
    ("changes", "steps", "said"),
    [
        ({}, 3, "is finished with budget.steps 4 and can't have 3"),
        ({"method": (Use("transfer.full"), Use("incremental.ewc"))}, 8, "incremental.ewc took leave of its task"),
        ({"seed": 1}, 8, "holds another experiment"),
    ],
)
def test_what_can_t_go_on_is_refused_and_stays_as_it_was(tmp_path, changes, steps, said):
    first = {name: value for name, value in changes.items() if name != "seed"}
    fit(small(tmp_path / "run", 4, **first), quiet=True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.json")}
    with pytest.raises(RunRefused, match=said):
        fit(small(tmp_path / "run", steps, **changes), quiet=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.json")} == before


def test_an_unfinished_run_keeps_its_budget(tmp_path):
    made = small(tmp_path / "run", 4)
    fit(made, quiet=True)
    summary = read_sealed(tmp_path / "run" / "summary.json")
    write_sealed(tmp_path / "run" / "summary.json", {**summary, "status": "interrupted"})
    with pytest.raises(RunRefused, match=r"another experiment, whose budget\.steps is 4 and not 8"):
        fit(dataclasses.replace(made, budget=Budget(steps=8, batch_size=8)), quiet=True)
