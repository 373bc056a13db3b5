import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from training.small import TinyDecoder, Tokens, experiment

from ft_jax.core.params import paths
from ft_jax.training import Budget, EvaluationSpec, Mesh, OptimizerSpec, Use, fit, prepare
from ft_jax.training.parallel import as_parallelism, check_divides

ROOT = Path(__file__).parents[2]
METHODS = {
    "full": (),
    "lora": (Use("transfer.lora", rank=2, also=("*/head/*",)),),
    "quantised lora": (Use("transfer.lora", rank=2), lambda parts: _quantised()),
}


def _quantised():
    from ft_jax.core import Method, quantize, replace_weights

    def surgery(params, key):
        return replace_weights(params, ("*/mlp/*/kernel",), lambda path, weight, key: quantize(weight), key)

    return Method("quantised", surgery=surgery)


def decoder(parallelism, method=(), **budget):
    """A decoder on sequences that count 1 to 6 tokens, so devices hold unequal numbers of them."""
    return experiment(
        model=TinyDecoder(layers=1),
        data=Tokens(),
        method=method,
        optimizer=OptimizerSpec(learning_rate=0.01, weight_decay=0.1, max_norm=0.5, schedule="cosine", warmup=0.4),
        budget=Budget(**{"steps": 4, "batch_size": 16, "accumulate": 2, **budget}),
        evaluation=EvaluationSpec(every=3),
        parallelism=parallelism,
    )


def curves(folder):
    """Losses and gradient norms by step, and the evaluations' numbers."""
    every = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [[line["loss"], line["gradient_norm"]] for line in every if line["kind"] == "train"]
    scores = [[line["loss"], line["perplexity"]] for line in every if line["kind"] == "evaluation"]
    return np.array(train), np.array(scores)


@pytest.mark.parametrize("method", METHODS)
def test_devices_give_the_same_curves(tmp_path, method):
    single = fit(decoder("single", METHODS[method]), run=tmp_path / "single", quiet=True)
    train, scores = curves(tmp_path / "single")
    assert train.shape == (4, 2) and train[-1, 0] != train[0, 0]
    for name in ("pmap", "mesh(2,2,2)"):
        # Eight devices with one row each take no micro-batches under pmap.
        accumulate = 1 if name == "pmap" else 2
        made = decoder(name, METHODS[method], accumulate=accumulate)
        other = fit(made, run=tmp_path / name, quiet=True)
        assert other.compilations == single.compilations == 1
        for ours, theirs in zip(curves(tmp_path / name), (train, scores), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        for a, b in zip(jax.tree.leaves(single.state.params), jax.tree.leaves(other.state.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


def test_micro_batches_under_pmap_give_the_same_curve(tmp_path):
    fit(decoder("single", accumulate=1, batch_size=32), run=tmp_path / "single", quiet=True)
    fit(decoder("pmap", accumulate=4, batch_size=32), run=tmp_path / "pmap", quiet=True)
    for ours, theirs in zip(curves(tmp_path / "pmap"), curves(tmp_path / "single"), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_mesh_splits_parameters_and_moments_alike():
    plan = prepare(decoder("mesh(2,2,2)", METHODS["lora"]))
    state = plan.distributed.init(plan.model.params, plan.key)
    placed = dict(zip(paths(state), jax.tree.leaves(state), strict=True))
    specs = {path: leaf.sharding.spec for path, leaf in placed.items()}
    block = "model/layers/0"
    assert specs[f"frozen/{block}/attention/query/kernel/base"] == PartitionSpec("fsdp", "tensor")
    assert specs[f"frozen/{block}/mlp/down/kernel/base"] == PartitionSpec("tensor", "fsdp")
    assert specs[f"params/{block}/attention/query/kernel/transfer.lora/a"] == PartitionSpec("fsdp", None)
    assert specs[f"params/{block}/attention/query/kernel/transfer.lora/b"] == PartitionSpec(None, "tensor")
    assert specs["params/model/head/kernel"] == PartitionSpec("fsdp", "tensor")
    moments = [path for path in specs if path.startswith("opt_state") and path.endswith("mu/model/head/kernel")]
    assert moments and all(specs[path] == PartitionSpec("fsdp", "tensor") for path in moments)
    shard = placed["params/model/head/kernel"].addressable_shards[0].data
    assert shard.size * 4 == placed["params/model/head/kernel"].size


def test_state_keeps_its_place_while_training():
    plan = prepare(decoder("mesh(2,2,2)"))
    distributed = plan.distributed
    state = distributed.init(plan.model.params, plan.key)
    before = [leaf.sharding for leaf in jax.tree.leaves(state)]
    state, _ = distributed.step(state, distributed.put_batch(next(plan.stream[0].train)))
    assert [leaf.sharding for leaf in jax.tree.leaves(state)] == before


def test_own_rules_come_first():
    mesh = Mesh(2, 2, 2, rules=(("*/head/kernel", (None, "fsdp")),))
    plan = prepare(decoder(mesh))
    state = plan.distributed.init(plan.model.params, plan.key)
    assert state.params["model"]["head"]["kernel"].sharding.spec == PartitionSpec(None, "fsdp")


@pytest.mark.parametrize("text", ["mesh", "mesh(2,2,2,2,2)", "mesh(a)", "tpu"])
def test_unknown_parallelism_is_refused(text):
    with pytest.raises(ValueError, match="use 'single', 'pmap' or a mesh"):
        as_parallelism(text)


def test_batch_that_does_not_divide_is_refused_with_one_that_does():
    with pytest.raises(ValueError, match="a batch of 30 does not divide over 8 devices; use budget.batch_size 32"):
        check_divides(30, 8)


def test_mesh_takes_what_is_left():
    assert dict(Mesh(data=-1, fsdp=2).build(jax.devices()).shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    with pytest.raises(ValueError, match="at most once"):
        Mesh(-1, -1, 1).build(jax.devices())


@pytest.mark.slow
@pytest.mark.parametrize("parallelism", ["pmap", "mesh(-1,2)"])
def test_two_processes_give_the_curve_of_one(tmp_path, parallelism):
    made = decoder(parallelism, accumulate=1)
    fit(made, run=tmp_path / "one", quiet=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = dict(
        os.environ,
        PYTHONPATH=f"{ROOT / 'tests'}:{ROOT}",
        JAX_PLATFORMS="cpu",
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
        FT_JAX_DISTRIBUTED="1",
        FT_JAX_COORDINATOR=address,
        FT_JAX_PROCESSES="2",
    )
    command = [sys.executable, "-m", "training.processes", str(tmp_path / "two"), parallelism]
    running = [
        subprocess.Popen(command, env={**environment, "FT_JAX_PROCESS": str(index)}, cwd=ROOT, stderr=subprocess.PIPE)
        for index in range(2)
    ]
    errors = [process.communicate(timeout=300)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    for ours, theirs in zip(curves(tmp_path / "two"), curves(tmp_path / "one"), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
