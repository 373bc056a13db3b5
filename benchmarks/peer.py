"""Runs the peer (transformers and peft on torch) beside a benchmark, on the same weights and the same batch."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ft_jax import models
from ft_jax.core.params import paths

VARIANTS = ("eager", "compile", "liger", "liger+compile", "liger+checkpoint", "eager+checkpoint", "eager+heap")
"""Configurations of the peer; the strongest is the one that a ratio counts against. ``heap`` gives its process the
settings of the allocator that `ft_jax.training.process` gives ours."""

HEAP = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**62)}
"""Those settings as glibc reads them from the environment."""

METHODS = ("full", "lora", "dora", "qlora", "dpo", "distillation")
"""What the peer trains, of `benchmarks.programs.METHODS`; preferences and distillation with LoRA, for language models;
QLoRA's blocks are those of bitsandbytes."""


@dataclasses.dataclass
class Peer:
    """A process that trains the peer's model; `steps` times it."""

    process: subprocess.Popen
    facts: dict[str, Any]

    def steps(self, count: int) -> dict[str, Any]:
        """``seconds`` and ``losses`` of so many more steps, and the ``peak_bytes`` of the device so far."""
        self.process.stdin.write(f"steps {count}\n")
        self.process.stdin.flush()
        return _answer(self.process)

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait(timeout=60)


def python_with_torch(python: str | None) -> str:
    """The interpreter that runs the peer: the one given, or this one.

    Raises:
      ValueError: where this one has no torch and none is given.
    """
    if python is not None:
        return python
    if importlib.util.find_spec("torch") is None:
        raise ValueError(
            "the peer needs torch, transformers and peft, which this environment has not; "
            "install them here or pass --peer-python with the interpreter of one that has them"
        )
    return sys.executable


def start(step, method: str, variant: str, python: str | None = None, **options: Any) -> Peer:
    """Starts the peer on a step's weights and batch.

    Args:
      step: a `benchmarks.programs.Step` with parameters.
      method: one of `METHODS`, or ``"generate"``.
      variant: one of `VARIANTS`.
      python: an interpreter with torch, transformers and peft.
      **options: for the peer: ``rank``, ``deterministic``, ``new``, ``threads``.

    Raises:
      RuntimeError: where the peer ends before it has answered, with its last words.
    """
    folder = Path(tempfile.mkdtemp(prefix="ft_jax-peer-"))
    params, head = dict(step.model.params), {}
    if step.shape.classes is not None:
        last = params.pop("head")
        head = {"head_kernel": last["kernel"], "head_bias": last["bias"]}
    network = models.encoder if step.shape.classes is not None else models.decoder
    models.save(network(step.model.config, None), params, folder / "model")
    batch = dict(zip(paths(step.batch), jax.tree.leaves(step.batch), strict=True))
    arrays = {**batch, **jax.tree.map(lambda x: np.asarray(x, np.float32), head)}
    np.savez(folder / "arrays.npz", **arrays)
    told = {
        "folder": str(folder / "model"),
        "arrays": str(folder / "arrays.npz"),
        "kind": "bert" if step.shape.classes is not None else "llama",
        "method": method,
        "variant": variant,
        "dtype": step.shape.dtype,
        "rank": 16,
        "learning_rate": 1e-4,
        "deterministic": False,
        "threads": None,
        "cpu": jax.default_backend() == "cpu",
        **options,
    }
    script = Path(__file__).with_name("peer_torch.py")
    return opened(python_with_torch(python), script, told, HEAP if "heap" in variant else {})


def opened(python: str, script: Path, told: Mapping[str, Any], environment: Mapping[str, str]) -> Peer:
    """Starts a peer's script and waits for its first answer.

    Args:
      python: the interpreter.
      script: reads ``told`` as a line of JSON, answers, and then for every line ``steps N``.
      told: what it is to do.
      environment: variables beside this process's.

    Raises:
      RuntimeError: where it ends before it has answered, with its last words.
    """
    log = Path(tempfile.mkdtemp(prefix="ft_jax-peer-")) / "log"
    process = subprocess.Popen(
        [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    process.stdin.write(json.dumps(told) + "\n")
    process.stdin.flush()
    try:
        return Peer(process, _answer(process))
    except RuntimeError as error:
        words = log.read_text().strip().splitlines()
        raise RuntimeError(f"{error}: {words[-1] if words else 'no output'}") from None


def _answer(process) -> dict[str, Any]:
    for line in process.stdout:
        if line.startswith("@"):
            return json.loads(line[1:])
    raise RuntimeError(f"the peer ended with status {process.wait()} before it answered")
