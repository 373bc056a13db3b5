"""Optimizers that find their own rate in runs that die, in members, and in what a run leaves behind."""

import jax
import numpy as np
import pytest
from training.small import experiment, same_bits
from training.tiny_texts import TextModel, rows
from training.tiny_texts import experiment as texts

from ft_jax.training import Budget, EvaluationSpec, OptimizerSpec, Use, fit
from ft_jax.training.serving import load_run

FOUND = ("prodigy", "dadapt_adamw", "dog", "muon", "ademamix")


def made(name, **changes):
    rate = 0.02 if name in ("muon", "ademamix") else 1.0
    spec = EvaluationSpec(every=4, metric="loss")
    return experiment(
        optimizer=OptimizerSpec(name, rate), budget=Budget(steps=8, batch_size=8), evaluation=spec, **changes
    )


class Stop(Exception):
    """A run that dies."""


@pytest.mark.parametrize("name", FOUND)
def test_a_run_that_dies_goes_on_in_the_same_bits(tmp_path, name):
    whole = fit(made(name), run=tmp_path / "whole", quiet=True)

    def stop(moment):
        if moment.step == 8:
            raise Stop

    with pytest.raises(Stop):
        fit(made(name), run=tmp_path / "parts", quiet=True, callbacks=[stop])
    same_bits(fit(made(name), run=tmp_path / "parts", quiet=True).state, whole.state)


@pytest.mark.parametrize("name", FOUND)
def test_each_member_finds_the_rate_that_it_finds_alone(tmp_path, name):
    alone = fit(made(name), run=tmp_path / "alone", quiet=True)
    members = (Use("ensemble.members", count=2, fusion=None),)
    both = fit(made(name, method=members), run=tmp_path / "both", quiet=True)
    for one, two in zip(jax.tree.leaves(alone.state.opt_state), jax.tree.leaves(both.state.opt_state), strict=True):
        for member in np.asarray(two):
            np.testing.assert_allclose(member, one, rtol=2e-3, atol=1e-5)


def test_what_is_kept_and_measured_are_the_averaged_parameters(tmp_path):
    file = rows(tmp_path, "texts.jsonl", ("sad", "glad", "mad"))
    run = texts(file, model=TextModel(), out=tmp_path / "run", method=(Use("adaptive.schedule_free"),))
    result = fit(run, quiet=True)
    kept = load_run(result.run).model.params["head"]["kernel"]
    averaged, training = result.params["head"]["kernel"], result.state.params["model"]["head"]["kernel"]
    np.testing.assert_array_equal(kept, averaged)
    assert np.abs(np.asarray(kept) - np.asarray(training)).max() > 1e-5
