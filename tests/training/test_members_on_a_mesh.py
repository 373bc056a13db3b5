"""Members over an axis of a mesh: the same runs, each device with its own members' numbers alone."""

import json
import re

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from training.small import TinyDecoder, Tokens, experiment

from ft_jax.core import compose, make_step, optimizer, supervised
from ft_jax.core.params import paths
from ft_jax.ensemble import members
from ft_jax.testing.problem import problem
from ft_jax.training import Budget, EvaluationSpec, Mesh, OptimizerSpec, Use, fit, prepare
from ft_jax.training.parallel import step_on_mesh
from ft_jax.training.sharding import state_shardings
from ft_jax.transfer import lora

LORA = (Use("ensemble.members", count=4), Use("transfer.lora", rank=2))
POPULATION = (Use("tuning.population", numbers={"optimizer.learning_rate": (0.01, 0.03)}), Use("incremental.ewc"))


def decoder(parallelism, method):
    return experiment(
        model=TinyDecoder(layers=1),
        data=Tokens(),
        method=method,
        optimizer=OptimizerSpec(learning_rate=0.01, max_norm=0.5),
        budget=Budget(steps=3, batch_size=16),
        evaluation=EvaluationSpec(every=3),
        parallelism=parallelism,
    )


def told(folder):
    every = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.concatenate([np.ravel(line["loss"]) for line in every if line["kind"] in ("train", "evaluation")])


@pytest.mark.parametrize(("parallelism", "method"), [("mesh(2,1,1,4)", LORA), ("mesh(1,2,1,2)", POPULATION)])
def test_the_curve_is_that_of_one_device(tmp_path, parallelism, method):
    single = fit(decoder("single", method), run=tmp_path / "single", quiet=True)
    other = fit(decoder(parallelism, method), run=tmp_path / "mesh", quiet=True)
    np.testing.assert_allclose(told(tmp_path / "mesh"), told(tmp_path / "single"), rtol=1e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(single.state.params), jax.tree.leaves(other.state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)
    assert other.compilations == 1


def test_what_members_have_of_their_own_is_split_and_the_base_is_not():
    plan = prepare(decoder(Mesh(data=1, fsdp=2, members=4), LORA))
    state = plan.distributed.init(plan.model.params, plan.key)
    specs = dict(zip(paths(state), (leaf.sharding.spec for leaf in jax.tree.leaves(state)), strict=True))
    for path, spec in specs.items():
        own = path.partition("/")[0] in ("params", "opt_state", "hyper", "key")
        assert ("members" in spec) == own and (not own or spec[0] == "members"), path
    block = "model/layers/0/attention/query/kernel"
    assert specs[f"frozen/{block}/base"] == PartitionSpec("fsdp", "tensor")
    assert specs[f"params/{block}/transfer.lora/a"] == PartitionSpec("members", "fsdp", None)
    a = state.params["model"]["layers"]["0"]["attention"]["query"]["kernel"]
    leaf = jax.tree.leaves(a)[0]
    assert leaf.addressable_shards[0].data.shape[0] == 1 and leaf.shape[0] == 4
    state, _ = plan.distributed.step(state, plan.distributed.put_batch(next(plan.stream[0].train)))
    after = dict(zip(paths(state), (leaf.sharding.spec for leaf in jax.tree.leaves(state)), strict=True))
    assert after == specs


def test_a_step_moves_no_members_numbers_between_devices():
    tiny, count = problem(), 8
    program = make_step(
        supervised(tiny.apply), optimizer(optax.adam, learning_rate=0.1), compose(members(count), lora(rank=2))
    )
    mesh = Mesh(data=1, members=count).build(jax.devices())
    outline = jax.eval_shape(program.init, tiny.params, jax.random.key(0))
    step = step_on_mesh(program.step, mesh, state_shardings(outline, mesh))
    laid = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), outline, state_shardings(outline, mesh)
    )
    compiled = step.lower(laid.replace(frozen=None), laid.frozen, tiny.batch).compile()
    # Metrics are gathered, a number a member; anything with a width would be somebody's parameters or activations.
    moved = re.findall(r"= \w+\[([\d,]*)\][^=]*? (?:all-gather|all-to-all|collective-permute)\(", compiled.as_text())
    assert all(shape in ("", str(count)) for shape in moved), moved
    own = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((outline.params, outline.opt_state)))
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((outline.frozen, tiny.batch)))
    assert compiled.memory_analysis().argument_size_in_bytes < own / count + whole + 4096


def test_members_that_do_not_fit_the_mesh_are_refused():
    for method, match in (
        ((Use("transfer.lora", rank=2),), "4 places for members and no method trains several"),
        ((Use("ensemble.members", count=6), Use("transfer.lora", rank=2)), "6 members do not divide over the mesh's 4"),
    ):
        plan = prepare(decoder(Mesh(data=1, members=4), method))
        with pytest.raises(ValueError, match=match):
            plan.distributed.init(plan.model.params, plan.key)
    with pytest.raises(ValueError, match=r"mesh\(data=2, fsdp=1, tensor=1, members=8\) needs 16 devices"):
        Mesh(data=2, members=8).build(jax.devices())
