"""What a policy answers before and after training is kept and in the report."""

import dataclasses
import json

import pytest

from experiments.rl import arithmetic
from ft_jax.training import Use, fit
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


def test_a_run_without_prompts_keeps_no_answers_and_damage_is_told(tmp_path):
    assert answers_section(tmp_path) == {"answer_phases": [], "answers": []}
    (tmp_path / FILE).write_text('{"before": {"held out": 3}}')
    with pytest.raises(ValueError, match="does not hold answers"):
        answers_section(tmp_path)
