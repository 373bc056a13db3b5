"""What the policy answers to some prompts of an evaluation, kept in the run folder before and after training."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from ft_jax.core import TrainState
from ft_jax.outside import read_json
from ft_jax.training.evaluate import fill
from ft_jax.training.prepare import Plan
from ft_jax.training.report.answers import FILE
from ft_jax.training.run_folder import write_json

MOST = 4
"""Prompts of an evaluation set whose answers are kept, its first ones."""


def keep_answers(plan: Plan, state: TrainState, phase: str, folder: Path) -> None:
    """Writes ``answers.json``: under `phase`, by evaluation set, prompts with what the state answers to them.

    Each has ``prompt`` and ``answer`` as texts where the model has a tokenizer, else as tokens, and its ``reward``
    where there is one; of several trials the first one's. A run whose evaluation answers nothing has no such file.
    """
    if plan.answers is None:
        return
    found = {}
    for name, batches in plan.sets.items():
        batch = next(iter(batches), None)
        if batch is None or "input_ids" not in batch:
            continue
        whole = len(batch["input_ids"])
        rows = -(-whole // plan.distributed.shards) * plan.distributed.shards
        told = plan.answers.measure(state, plan.answers.put_whole(fill(batch, rows)))
        first = (0,) * len(plan.program.trials)
        told = {field: np.asarray(value)[first] for field, value in jax.device_get(told).items()}
        if told:
            found[name] = [_example(plan.model, batch, told, row) for row in range(min(MOST, whole))]
    if found and jax.process_index() == 0:
        path = folder / FILE
        write_json(path, {**(read_json(path) if path.exists() else {}), phase: found})


def _example(model, batch, told, row) -> dict[str, Any]:
    ids = np.asarray(batch["input_ids"][row])
    prompt = ids[np.asarray(batch.get("attention_mask", np.ones_like(batch["input_ids"]))[row]) > 0]
    answer = told["tokens"][row][: told["lengths"][row]]
    example = {"prompt": _text(model, prompt), "answer": _text(model, answer)}
    return {**example, "reward": float(told["reward"][row])} if "reward" in told else example


def _text(model, ids) -> str:
    tokenizer = getattr(model, "tokenizer", None)
    return " ".join(map(str, ids.tolist())) if tokenizer is None else tokenizer.decode(ids.tolist())
