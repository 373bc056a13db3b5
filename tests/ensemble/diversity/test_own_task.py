"""Members that learn a task each in one program are the runs that learn it alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.serving import small_runs

from ft_jax import transfer, tuning
from ft_jax.core import compose, make_step, supervised
from ft_jax.core.members import member
from ft_jax.ensemble import own_task
from ft_jax.testing.problem import problem
from ft_jax.training import Feed, Use
from ft_jax.training.own_data import Labelled, Mixture
from ft_jax.training.predictions import predictions


def state_after(method, batches):
    program = make_step(supervised(problem().apply), optax.sgd(0.1), method)
    state, step = program.init(problem().params, jax.random.key(3)), jax.jit(program.step)
    for batch in batches:
        state, _ = step(state, batch)
    return state


def test_each_member_is_the_run_that_has_seen_its_task_alone():
    source = jnp.array([1, 0, 0, 1, 1, 0, 1, 0])
    batches = [{**problem().batch, "source": jnp.roll(source, shift)} for shift in range(3)]
    together = state_after(
        compose(tuning.population({"ensemble.own_task.task": [0, 1]}), own_task(2), transfer.lora(rank=2)), batches
    )
    for task in range(2):
        own = [
            {name: leaf[np.flatnonzero(batch["source"] == task)] for name, leaf in batch.items()} for batch in batches
        ]
        alone = state_after(transfer.lora(rank=2), own)
        for a, b in zip(*map(jax.tree.leaves, (member(together, task).params, alone.params)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_rows_that_stand_in_count_nothing():
    few = {**problem().batch, "source": jnp.array([1, 0, 0, 0, 0, 0, 0, 0])}
    one = jax.tree.map(lambda leaf: leaf[:1], problem().batch)
    for a, b in zip(
        *(map(jax.tree.leaves, (state_after(own_task(2, 1), [few]).params, state_after(compose(), [one]).params))),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    model = small_runs.encoder_folder(folder / "model", layers=1)
    files = [small_runs.texts(folder / f"{name}.csv", seed) for name, seed in (("first", 2), ("second", 3))]
    mixture = Mixture(tuple(Labelled(str(file), length=16) for file in files), together=True)
    method = (
        Use("tuning.population", numbers={"ensemble.own_task.task": [0, 1]}),
        Use("ensemble.own_task", tasks=2),
        Use("transfer.lora", rank=2, also=("*/head/*",)),
    )
    plain = small_runs.classifier(model, files[0], "tasks", method=method)
    experiment = dataclasses.replace(plain, data=mixture)
    return experiment, small_runs.run(experiment, folder / "run")


def test_a_run_trains_a_member_on_each_task_and_its_predictions_fuse(run):
    experiment, result = run
    assert result.status == "finished"
    found = predictions(result, experiment, on="held-out second")
    assert len(found.names) == 2 and found.logits.shape[0] == 2
    assert not np.array_equal(*found.logits)


def test_every_batch_has_as_many_rows_of_each_source(run):
    experiment, *_ = run
    (task,) = experiment.data.build(experiment.model.build(jax.random.key(0)), Feed(6))
    first, place = next(task.train), task.train.get_state()
    assert first["source"].tolist() == [0, 0, 0, 1, 1, 1] and "chance" not in first
    second = next(task.train)
    task.train.set_state(place)
    assert all((second[name] == value).all() for name, value in next(task.train).items())
    with pytest.raises(ValueError, match="a batch of 5 rows can't have as many of 2 sources; give a multiple of 2"):
        experiment.data.build(experiment.model.build(jax.random.key(0)), Feed(5))
    with pytest.raises(ValueError, match=r"data.together .*leave data.shares and data.by out"):
        dataclasses.replace(experiment.data, shares=(1.0, 1.0)).check()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: own_task(2, 2), "has task 2 of 2; give a whole number from 0 to 1"),
        (lambda: own_task(2, 0.5), "has task 0.5 of 2"),
        (lambda: state_after(own_task(2), [problem().batch]), r"reads 'source' .*Mixture\(sources, together=True\)"),
        (
            lambda: state_after(own_task(3), [{**problem().batch, "source": jnp.zeros(8)}]),
            "shares 8 rows among 3 tasks; give a batch size that 3 divides",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises((ValueError, KeyError), match=says):
        make()
