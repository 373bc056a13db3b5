"""The regression guard: what a step computes, moves and holds, compared with what was recorded."""

import json

import jax
import numpy as np
import pytest

from benchmarks import counts
from benchmarks.programs import build
from benchmarks.shapes import shape
from ft_jax.core import jit_step

RECORDED = json.loads(counts.RECORDED.read_text(encoding="utf-8"))

MARGINS = {"flops": 0.03, "bytes_accessed": 0.15, "temporary_bytes": 0.25}
"""How much more than recorded is let pass; another version of jax, which fuses otherwise, gets three times."""


def test_every_step_is_recorded():
    assert list(RECORDED["steps"]) == list(counts.STEPS)


@pytest.mark.parametrize("name", counts.STEPS)
def test_a_step_costs_no_more_than_recorded(name):
    if jax.default_backend() != RECORDED["backend"]:
        pytest.skip(f"the counts are those of {RECORDED['backend']}")
    found, recorded = counts.counts(**counts.STEPS[name]), RECORDED["steps"][name]
    wider = 1 if jax.__version__ == RECORDED["jax"] else 3
    for kind, margin in MARGINS.items():
        most = recorded[kind] * (1 + wider * margin)
        assert found[kind] <= most, (
            f"{name} has {found[kind]:,} {kind}, recorded are {recorded[kind]:,}; make it cheaper, or if that is meant "
            "run python -m benchmarks.counts and say why"
        )
        assert found[kind] >= recorded[kind] * (1 - 2 * wider * margin), (
            f"{name} has {found[kind]:,} {kind} and {recorded[kind]:,} are recorded, which no longer guards it; "
            "run python -m benchmarks.counts"
        )


def test_a_hundred_steps_compile_once_and_move_nothing_from_the_host():
    step, state, batch = build("composed", shape("tiny"), rank=4).start()
    state, _ = step(state, batch)
    with jax.transfer_guard("disallow"):
        for _ in range(99):
            state, metrics = step(state, batch)
    assert step.compilations() == 1 and int(state.step) == 100 and np.isfinite(metrics["loss"])


def test_the_guard_of_transfers_would_see_one():
    built = build("lora", shape("tiny"), rank=4)
    step, state, batch = built.start()
    state, _ = step(state, batch)
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="[Dd]isallowed host-to-device transfer"):
        step(state, built.batch)


def test_a_step_gives_its_state_away_and_keeps_the_frozen_weights():
    built = build("lora", shape("tiny"), rank=4)
    step, state, batch = built.start()
    learned, frozen = jax.tree.leaves(state.params)[0], jax.tree.leaves(state.frozen)[0]
    step(state, batch)
    assert learned.is_deleted() and not frozen.is_deleted()
    assert jit_step(built.program.step) is not step
