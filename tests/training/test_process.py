"""The process's settings, each in a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from ft_jax.training.process import keep_freed_memory
done = keep_freed_memory()
import jax, jax.numpy as jnp

@jax.jit
def step(x):
    for _ in range(4):
        x = jnp.tanh(x @ x)
    return x.sum()

x = jnp.eye(512)
for _ in range(5):
    step(x).block_until_ready()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(int(done), faults)
"""


def faults(**environment):
    """Whether memory is kept, and the pages that one step of 2 MiB of temporaries touches for the first time."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    told = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True)
    return tuple(map(int, told.stdout.split()))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is another")
def test_kept_memory_is_not_cleared_at_every_step():
    kept, few = faults(FT_JAX_KEEP_MEMORY="1")
    left, many = faults(FT_JAX_KEEP_MEMORY="0")
    assert (kept, left) == (1, 0) and few < 100 and many > 300


def test_an_accelerator_leaves_the_allocator_alone():
    assert faults(FT_JAX_KEEP_MEMORY="1", JAX_PLATFORMS="cuda,cpu")[0] == 0
