"""Populations that act on themselves: as separate runs that a person stops, starts and copies by hand."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tuning.test_schedules import slowly

from ft_jax.core import Method, Outputs, make_step, optimizer
from ft_jax.core.members import member
from ft_jax.tuning import Asha, MedianStopping, Pbt, population, standings, trial_state

RATES = (0.3, 0.01, 0.2, 0.05, 0.1)
BATCHES = np.random.default_rng(0).normal(size=(40, 4, 3)).astype(np.float32)


def loss(params, batch, context):
    hidden = batch["x"] @ params["model"]["w"]
    return {"task": jnp.mean((hidden - batch["x"][:, :1]) ** 2)}, Outputs(hidden=hidden)


def start():
    return {"w": jnp.array([[0.5], [-1.0], [2.0]])}


@functools.cache
def program(schedule=None, members=None, rates=RATES):
    numbers = {"optimizer.learning_rate": list(rates)}
    method = population(numbers, members=members, schedule=schedule) if len(rates) > 1 else Method(name="none")
    return make_step(loss, optimizer(optax.sgd, learning_rate=rates[0], momentum=0.5), method)


def evaluated(made, state):
    """The loss of every member on a batch that is held out."""
    return jnp.sum(jnp.stack(list(made.evaluate(state, {"x": BATCHES[39]}).terms.values())), axis=0)


@functools.cache
def functions(made):
    return jax.jit(made.step), jax.jit(functools.partial(evaluated, made)), jax.jit(made.after_eval)


def trained(made, evaluations, every=2):
    """A population's state and the scores at every evaluation."""
    step, score, after = functions(made)
    state, scores = made.init(start(), jax.random.key(0)), []
    for index in range(evaluations * every):
        state, _ = step(state, {"x": BATCHES[index]})
        if (index + 1) % every == 0:
            scores.append(np.asarray(score(state)))
            state = after(state, {"loss": scores[-1]})
    assert step._cache_size() == 1 and after._cache_size() == 1
    return state, scores


def by_hand(jobs, every=2):
    """Each trial as a run of its own: trained only while `jobs` (evaluation by evaluation) has it."""
    alone = {trial: program(rates=(rate,)) for trial, rate in enumerate(RATES)}
    step, score, _ = functions(alone[0])
    states, scores = {}, {}
    for evaluation, running in enumerate(jobs):
        for trial in running:
            if trial < 0:
                continue
            state = states.get(trial) or alone[trial].init(start(), jax.random.key(0))
            # The number of the step is the program's.
            state = state.replace(step=jnp.int32(evaluation * every))
            for index in range(evaluation * every, (evaluation + 1) * every):
                state, _ = step(state, {"x": BATCHES[index]})
            states[trial] = state
            scores.setdefault(trial, []).append(float(score(state)))
    return states, scores


def test_asha_in_the_program_is_runs_that_are_paused_and_resumed_by_hand():
    schedule = Asha((1, 2, 4), eta=2)
    state, _ = trained(program(schedule, 2), 9)
    # Scores don't depend on who runs beside, but on when; a first pass by the program's own jobs gives them.
    table, jobs = standings(state), jobs_of(schedule, 9)
    states, scores = by_hand(jobs)
    for row in table:
        rungs = [-scores[row["trial"]][rung - 1] for rung in (1, 2, 4) if rung <= len(scores.get(row["trial"], ()))]
        np.testing.assert_allclose([score for score in row["scores"] if score is not None], rungs, rtol=1e-5)
        assert row["evaluations"] == len(scores[row["trial"]])
        chex.assert_trees_all_close(trial_state(state, row["trial"]).params, states[row["trial"]].params, rtol=1e-5)
    # And the jobs themselves are those of the algorithm by lists, from the scores of the runs by hand.
    by_rung = [[-scores[trial][min(rung, len(scores[trial])) - 1] for rung in (1, 2, 4)] for trial in range(5)]
    assert jobs == slowly((1, 2, 4), 2, by_rung, 2, 9)
    assert table[0]["evaluations"] == 4


def jobs_of(schedule, evaluations):
    """The trials of the members before each evaluation."""
    made = program(schedule, 2)
    step, score, after = functions(made)
    state, jobs = made.init(start(), jax.random.key(0)), []
    for index in range(evaluations):
        jobs.append(state.memory["tuning.population"].value["trial"].tolist())
        for batch in BATCHES[2 * index : 2 * index + 2]:
            state, _ = step(state, {"x": batch})
        state = after(state, {"loss": score(state)})
    return jobs


def test_pbt_copies_state_and_numbers_and_perturbs_the_numbers():
    schedule = Pbt(share=0.5, factors=(0.5, 2.0))
    made = program(schedule, None, RATES[:4])
    step, score, after = functions(made)
    state = made.init(start(), jax.random.key(0))
    for batch in BATCHES[:3]:
        state, _ = step(state, {"x": batch})
    losses = np.asarray(score(state))
    new = after(state, {"loss": losses})
    order = np.argsort(losses)
    for good in order[:2]:
        chex.assert_trees_all_equal(member(new, int(good)).params, member(state, int(good)).params)
        assert new.hyper["optimizer"]["learning_rate"][good] == pytest.approx(RATES[good])
    for bad in order[2:]:
        sources = [
            g for g in order[:2] if jnp.array_equal(new.params["model"]["w"][bad], state.params["model"]["w"][g])
        ]
        assert sources
        # Momentum is copied with the weights.
        moments = [leaf[bad] for leaf in jax.tree.leaves(new.opt_state) if leaf.ndim > 1]
        theirs = [leaf[sources[0]] for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim > 1]
        chex.assert_trees_all_equal(moments, theirs)
        factor = float(new.hyper["optimizer"]["learning_rate"][bad]) / RATES[sources[0]]
        assert factor == pytest.approx(0.5) or factor == pytest.approx(2.0)


def test_a_member_that_diverged_is_replaced_and_a_bound_is_kept():
    numbers = {"optimizer.learning_rate": [0.1, 0.1]}
    method = population(
        numbers, schedule=Pbt(share=0.5, factors=(100.0,)), bounds={"optimizer.learning_rate": (0.01, 0.5)}
    )
    made = make_step(loss, optimizer(optax.sgd, learning_rate=0.1), method)
    new = made.after_eval(made.init(start(), jax.random.key(0)), {"loss": jnp.array([math.nan, 1.0])})
    assert new.hyper["optimizer"]["learning_rate"].tolist() == pytest.approx([0.5, 0.1])


def test_median_stopping_in_the_program_frees_members_for_those_that_wait():
    state, _ = trained(program(MedianStopping(2, completed=2), 2), 8)
    table = standings(state)
    assert {row["trial"] for row in table} == set(range(5))
    assert all(1 <= row["evaluations"] <= 2 for row in table) and table[0]["evaluations"] == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"members": 2}, "no schedule with a queue"),
        ({"members": 2, "schedule": "pbt"}, "no schedule with a queue"),
        ({"members": 9, "schedule": "asha"}, "5 trials for 9 members"),
        ({"schedule": "anneal"}, "no schedule 'anneal'"),
        ({"mode": "most"}, "mode 'most'"),
        ({"bounds": {"optimizer.rate": (0, 1)}}, "name a number it varies"),
    ],
)
def test_a_population_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        population({"optimizer.learning_rate": list(RATES)}, **options)


def test_a_metric_that_is_not_measured_is_refused_with_the_nearest():
    made = program(Asha(), 2)
    state = made.init(start(), jax.random.key(0))
    with pytest.raises(KeyError, match="compares by 'loss', which isn't measured; the nearest are losses"):
        made.after_eval(state, {"losses": jnp.zeros(2)})
