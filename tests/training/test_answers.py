"""What a policy answers before and after training is kept and in the report."""

import dataclasses
import json

import jax
import pytest

from experiments.rl import arithmetic
from ft_jax.training import Mesh, Use, fit
from ft_jax.training.report import write_report
from ft_jax.training.report.answers import FILE, answers_section


def learner():
    tuned = arithmetic.learner("rl.grpo", samples=2)
    budget = dataclasses.replace(tuned.budget, steps=2, batch_size=2)
    method = (Use("ensemble.members", count=2, fusion=None), *tuned.method)
    return dataclasses.replace(tuned, model=arithmetic.Shown(steps=30), budget=budget, method=method)


def test_the_report_shows_what_the_first_member_answered_before_and_after(tmp_path):
    result = fit(learner(), run=tmp_path / "run", quiet=True)
    told = json.loads((result.run / FILE).read_text())
    assert set(told) == {"before", "after"}
    batch = arithmetic.questions(arithmetic.sums(True))
    for phase in told:
        ours = told[phase]["held out"]
        assert len(ours) == 4
        for row, one in enumerate(ours):
            prompt = [str(token) for token in batch["input_ids"][row] if token != arithmetic.PAD]
            assert one["prompt"].split() == prompt
            right = [str(token) for token in batch["answer"][row]]
            said = one["answer"].split()
            # An answer ends with its stop, so that it is right only where it is the whole of what was asked.
            assert one["reward"] == float([*said, *["0"] * (len(right) - len(said))] == right)
    page = write_report([result.run], tmp_path / "report.html").read_text()
    assert "Answers before and after" in page and told["after"]["held out"][0]["answer"] in page


def test_several_devices_keep_the_answers_of_one(tmp_path):
    tuned = arithmetic.learner("rl.grpo", samples=2)
    budget = dataclasses.replace(tuned.budget, steps=1, batch_size=jax.device_count())
    model = arithmetic.Shown(dataclasses.replace(arithmetic.SMALL, layers=1), steps=0)
    tuned = dataclasses.replace(tuned, model=model, data=Few(), budget=budget)
    kept = []
    for place, parallelism in (("one", "single"), ("pmap", "pmap"), ("mesh", Mesh(data=2))):
        run = fit(dataclasses.replace(tuned, parallelism=parallelism), run=tmp_path / place, quiet=True).run
        kept.append(json.loads((run / FILE).read_text()))
    assert kept[0] == kept[1] == kept[2] and len(kept[0]["after"]["held out"]) == 4


@dataclasses.dataclass(frozen=True)
class Few:
    """A few prompts, of a number that no devices divide."""

    def build(self, model, feed):
        task = arithmetic.Sums().build(model, feed)[0]
        return (dataclasses.replace(task, evaluations={"held out": [arithmetic.questions(arithmetic.sums(True)[:5])]}),)


def test_a_run_without_prompts_keeps_no_answers_and_damage_is_told(tmp_path):
    assert answers_section(tmp_path) == {"answer_phases": [], "answers": []}
    (tmp_path / FILE).write_text('{"before": {"held out": 3}}')
    with pytest.raises(ValueError, match="does not hold answers"):
        answers_section(tmp_path)
