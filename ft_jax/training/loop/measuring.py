"""The scores of a state on a run's evaluation sets, and batches on their way to the devices."""

from collections.abc import Callable
from typing import Any

from ft_jax.core import TrainState
from ft_jax.training.evaluate import score
from ft_jax.training.limits import check_limits
from ft_jax.training.loop.targets import tested
from ft_jax.training.metrics import CONFUSION
from ft_jax.training.prepare import Plan
from ft_jax.training.run_folder import finite
from ft_jax.training.stream import Batch, check_batch
from ft_jax.training.tracing import PREQUENTIAL


def checked(plan: Plan, where: str, place: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
    """`place`, which moves a host batch to the devices, of batches that were looked at first."""

    def put(batch):
        check_batch(batch, where)
        check_limits(batch, plan.limits, where)
        return place(batch)

    return put


def measured(plan: Plan, state: TrainState, before: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The scores of a state by evaluation set, and the tables of those that are of classes.

    Args:
      plan: of the run.
      state: on the devices.
      before: what the latest batches gave before they were trained on.
    """
    run, found = plan.distributed, {}
    for name, batches in plan.sets.items():
        put = checked(plan, f"evaluation set {name!r}", run.put_whole)
        found[name] = score(run.measure, state, batches, plan.metrics, plan.program.trials, put, run.shards)
    if before:
        found[PREQUENTIAL] = tested(before, plan.metrics)
    tables = {name: scores.pop(CONFUSION) for name, scores in found.items() if CONFUSION in scores}
    return finite(found), finite(tables)
