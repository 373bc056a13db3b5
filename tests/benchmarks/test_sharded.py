"""Sharded steps split their work and their memory, and move only what the layout asks for."""

import jax
import pytest

from benchmarks import aot
from benchmarks.programs import build
from benchmarks.shapes import shape
from benchmarks.timing import memory
from ft_jax.training import Mesh


def small():
    return shape("small", batch=16, time=128, width=64, mlp_width=128, head_width=16, layers=2, vocabulary=512)


@pytest.mark.parametrize("method", ["lora", "full", "distillation"])
@pytest.mark.parametrize("grid", [(8, 1, 1), (1, 8, 1), (2, 2, 2)], ids=str)
def test_devices_share_operations_and_activations(grid, method):
    # Where activations follow the split of the parameters, they move all to all, and a device holds three shares.
    step = build(method, small(), rank=4, abstract=True)
    one, split = step.lowered().compile(), step.lowered(Mesh(*grid).build(jax.devices())).compile()
    assert 8 * split.cost_analysis()["flops"] < 1.05 * one.cost_analysis()["flops"]
    assert 8 * memory(split)["temporary_bytes"] < 1.2 * memory(one)["temporary_bytes"]
    assert "all-to-all" not in split.as_text()


def test_a_topology_without_its_compiler_says_what_to_install():
    with pytest.raises(ValueError, match=r'h100:1 can\'t be compiled for .*pip install "jax\[cuda12\]"'):
        aot.devices("h100:1")
    assert {run.kind for run in aot.RUNS} == {"v5p", "h100"}
