"""Peak memory while a sharded checkpoint is loaded, against the size of its largest shard.

``python -m benchmarks.loading --megabytes 400`` writes a random decoder into a temporary folder, loads it in a fresh
process for each case, and prints one JSON line a case: the most memory the process took beyond what it had before
and beyond the parameters themselves, which on a CPU live in the same memory, and that as a share of the largest shard.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
import psutil

from ft_jax import models

from .timing import line

CASES = {
    "float32": {},
    "float32_as_bfloat16": {"storage": "bfloat16"},
    "float32_as_nf4": {"quantize": "nf4"},
    "float32_sharded_over_8": {"sharded": True},
    "bfloat16_as_float32": {"file": "bfloat16"},
    "whole_files": {"whole": True},
}
"""What is loaded; the last reads every file at once, as a comparison."""


def checkpoint(folder: Path, megabytes: int, shard_megabytes: int, dtype: str) -> Path:
    """A random Llama-shaped decoder of about that size in float32, its shards of at most that size."""
    width, layers = 512, 1
    per_layer = 4 * width * width + 3 * width * 4 * width
    layers = max(1, round((megabytes * 1e6 / 4 - 2 * 8192 * width) / per_layer))
    config = models.DecoderConfig(
        vocabulary=8192, width=width, layers=layers, heads=8, key_value_heads=8, head_width=64, mlp_width=4 * width,
        tied=False,
    )  # fmt: skip
    model = models.decoder(config, jax.random.key(0))
    return models.save(model, model.params, folder, dtype=dtype, max_shard_bytes=shard_megabytes * 10**6)


class Peak:
    """The most memory this process had while the block ran, in bytes, from a reading every millisecond."""

    def __enter__(self):
        self.process, self.most, self.going = psutil.Process(), 0, True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self):
        while self.going:
            self.most = max(self.most, self.process.memory_info().rss)
            time.sleep(0.001)

    def __exit__(self, *error):
        self.most = max(self.most, self.process.memory_info().rss)
        self.going = False
        self.thread.join()


def load(folder: Path, case: dict):
    """The parameters of one case."""
    if case.get("whole"):
        from safetensors.numpy import load_file

        files = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
        return {name: jax.numpy.asarray(x.T) for tensors in files for name, x in tensors.items()}
    options = {name: case[name] for name in ("storage", "quantize") if name in case}
    if case.get("sharded"):
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("fsdp",))
        spec = jax.sharding.PartitionSpec
        options["sharding"] = lambda path, shape: jax.sharding.NamedSharding(
            mesh, spec("fsdp") if len(shape) == 2 else spec()
        )
    return models.load(folder, tokenizer=False, **options).params


def measure(folder: Path, case: dict, small: Path) -> dict:
    """One case in this process; the small checkpoint is loaded first, so that code and compilers are there."""
    load(small, case)
    gc.collect()
    # What was freed goes back, or the load to be measured would find it there.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = psutil.Process().memory_info().rss
    with Peak() as peak:
        params = jax.block_until_ready(load(folder, case))
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    largest = max(path.stat().st_size for path in folder.glob("*.safetensors"))
    beyond = peak.most - before - held
    return {
        "parameter_megabytes": round(held / 1e6, 1),
        "largest_shard_megabytes": round(largest / 1e6, 1),
        "peak_beyond_parameters_megabytes": round(beyond / 1e6, 1),
        "share_of_largest_shard": round(beyond / largest, 3),
    }


def main() -> None:
    """Prints a line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--shard-megabytes", type=int, default=100)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--measure", nargs=3, metavar=("CASE", "FOLDER", "SMALL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        case, folder, small = options.measure
        print(line("loading", what=case, **measure(Path(folder), CASES[case], Path(small))))
        return
    with tempfile.TemporaryDirectory() as parent:
        folders = {}
        for case in options.cases:
            dtype = CASES[case].get("file", "float32")
            if dtype not in folders:
                sizes = ((options.megabytes, options.shard_megabytes), (20, 5))
                folders[dtype] = [
                    checkpoint(Path(parent) / f"{dtype}_{most}", size, most, dtype) for size, most in sizes
                ]
            words = [sys.executable, "-m", f"{__package__}.loading", "--measure", case, *map(str, folders[dtype])]
            devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"} if CASES[case].get("sharded") else {}
            done = subprocess.run(words, check=True, capture_output=True, text=True, env={**os.environ, **devices})
            print(json.dumps(json.loads(done.stdout)), flush=True)


if __name__ == "__main__":
    main()
