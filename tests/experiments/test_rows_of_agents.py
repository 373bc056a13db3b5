"""The rows of agents in ``ft-jax reproduce``."""

import dataclasses

from experiments.reproduce import acrobot_ppo, cartpole_dqn, cartpole_ppo
from experiments.reproduce._agents import measured
from ft_jax.training import EvaluationSpec
from ft_jax.training.episodes import Episodes


def test_three_agents_are_judged_by_held_out_episodes_and_drawn():
    looks = EvaluationSpec(every=16, metric="return", mode="max")
    small = dataclasses.replace(cartpole_ppo.experiment, data=Episodes(4), evaluation=looks)
    found = measured(small, (0,), 32, 1.0, "490")
    (finding,), ((title, picture),) = found.findings, found.pictures.items()
    assert len(finding.ours) == 3 and finding.met
    assert "three agents" in title and picture.startswith("<svg")


def test_agents_live_through_the_papers_number_of_steps():
    for experiment in (cartpole_ppo.experiment, acrobot_ppo.experiment):
        own = experiment.method[1].options
        assert abs(experiment.budget.steps / 16 * own["copies"] * own["steps"] - 500_000) < 512
    assert cartpole_dqn.experiment.budget.steps * cartpole_dqn.experiment.method[1].options["interval"] == 500_000
