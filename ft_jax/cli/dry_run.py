"""What a run would do: composition, parameters, shapes and memory, with no step taken."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ft_jax.cli.text import columns
from ft_jax.core import catalogue
from ft_jax.training.composition import Use
from ft_jax.training.experiment import Experiment
from ft_jax.training.prepare import Plan, notes_of, prepare
from ft_jax.training.process import set_up_process
from ft_jax.training.report.data import groups
from ft_jax.training.stream import first_batch

MOST_GROUPS = 12


def dry_run(experiment: Experiment) -> str:
    """The model and data are built and every function is traced; no state is made and no step taken.

    A model that the experiment would train first, such as a teacher of its own, stands there untrained.
    """
    set_up_process()
    plan = prepare(experiment, outline=True)
    batch = first_batch(plan.stream[0])
    rows = [
        "composition, outermost first",
        *_composition(plan),
        "parameters",
        *_parameters(plan),
        *(("note", note) for note in notes_of(plan)),
        "data",
        *_data(plan, batch),
        "memory, over all devices",
        *_memory(plan, batch),
    ]
    return f"{experiment.name}: dry run, its steps are not taken and its folder is not written\n\n{columns(rows)}"


def _composition(plan: Plan) -> list[tuple[str, str]]:
    overrides = plan.experiment.hyper
    made_from = {use.options.get("name"): use.name for use in plan.experiment.method if isinstance(use, Use)}
    told = []
    for part in plan.composition:
        entry = catalogue.get(made_from.get(part.name, part.name))
        words = [entry.summary] if entry else []
        told.append((part.name, "  ".join([*words, *_numbers(part.name, part.hyper, overrides)])))
    optimizer = plan.experiment.optimizer
    numbers = _numbers("optimizer", optimizer.build(plan.total_steps).hyper, overrides)
    told.append(("optimizer", "  ".join([getattr(optimizer, "name", type(optimizer).__name__), *numbers])))
    return told


def _numbers(name: str, hyper: Mapping[str, float], overrides: Mapping[str, float]) -> list[str]:
    return [f"{number}={overrides.get(f'{name}.{number}', value):g}" for number, value in hyper.items()]


def _parameters(plan: Plan) -> list[tuple[str, str]]:
    counts = plan.parameters()
    share = 100 * counts["trainable"] / max(counts["total"], 1)
    told = [("learn", f"{counts['trainable']:,} of {counts['total']:,} ({share:.3g} %)")]
    found = groups(counts["leaves"])
    told += [
        (one.pattern, f"{one.size:,} in {one.leaves} array{'s' * (one.leaves > 1)}") for one in found[:MOST_GROUPS]
    ]
    if len(found) > MOST_GROUPS:
        told.append(("...", f"and {len(found) - MOST_GROUPS} smaller groups"))
    return told


def _data(plan: Plan, batch: Any) -> list[tuple[str, str]]:
    told = []
    for task, steps in zip(plan.stream, plan.steps, strict=True):
        examples = "" if task.examples is None else f", {task.examples:,} examples"
        made = ", batches made by the policy in training" if task.on_policy else ""
        told.append((f"task {task.name}", f"{steps:,} steps{examples}{made}"))
        told += [(f"column {name}", said) for name, said in task.columns.items()]
    told += [(f"evaluation set {name}", ", ".join(["loss", *plan.metrics])) for name in plan.sets]
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        told.append((f"batch field {name}", f"{np.asarray(leaf).dtype}{list(np.shape(leaf))}"))
    return told


def _memory(plan: Plan, batch: Any) -> list[tuple[str, str]]:
    state = plan.bytes_of_state()
    parts = {
        "parameters that learn": state["params"],
        "frozen parameters": state["frozen"],
        "gradients": state["params"],
        "optimizer state": state["opt_state"],
        "methods' memory": state["memory"],
    }
    if batch is not None:
        # Of the compiled step; its own buffers hold the gradients too.
        compiled = jax.jit(plan.program.step, donate_argnums=0).lower(plan.abstract, batch).compile()
        analysis = compiled.memory_analysis()
        if analysis is not None:
            parts["gradients"] = 0
            parts["gradients and activations of a step"] = analysis.temp_size_in_bytes
    told = [(name, size(count)) for name, count in parts.items() if count]
    return [*told, ("together", size(sum(parts.values())))]


def size(count: int) -> str:
    """Bytes in binary units.

    Example:
      >>> size(90_000_000), size(512)
      ('85.8 MiB', '512 B')
    """
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
