"""What training wants of the process it runs in: compiled programs kept on disk, and freed memory kept at hand."""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform

import jax

from ft_jax.assets.compiled import use_compilation_cache

ALLOCATOR = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1)}
"""Settings of glibc's ``mallopt(3)``: one heap, no mapping of single arrays, nothing given back."""


def set_up_process() -> None:
    """Both of the below; `fit`, dry runs and ``ft-jax bench`` call it, a script of your own may at its start."""
    use_compilation_cache()
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Keeps the memory of a step's temporaries for the next step, where jax runs on the CPU under glibc.

    XLA asks for a step's temporaries anew at every step. glibc maps so large a block afresh and gives it back after,
    and the kernel then clears each page at its first touch, again at every step (``ft-jax bench allocator`` measures
    it). Kept, the process holds up to twice the temporaries of its largest program until it ends;
    ``FT_JAX_KEEP_MEMORY=0`` leaves the allocator alone.

    Threads that have allocated keep their heaps, so call it before jax's first computation.

    Returns:
      whether it was done.

    Example:
      >>> os.environ["FT_JAX_KEEP_MEMORY"] = "0"
      >>> keep_freed_memory()
      False
    """
    wanted = os.environ.get("FT_JAX_KEEP_MEMORY", "1") not in ("", "0")
    if not wanted or platform.libc_ver()[0] != "glibc" or not _only_cpu():
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(option, value) == 1 for option, value in ALLOCATOR.values())


def _only_cpu() -> bool:
    """Whether jax will compute on the CPU, told without starting it."""
    asked = jax.config.jax_platforms
    if asked:
        return asked == "cpu"
    return not importlib.metadata.entry_points(group="jax_plugins") and importlib.util.find_spec("libtpu") is None


def start_processes() -> None:
    """Joins the processes of several hosts where the environment says so; before anything else uses jax.

    ``FT_JAX_DISTRIBUTED=1`` joins through `jax.distributed.initialize`, which finds the coordinator on
    clusters that jax knows (SLURM, Kubernetes, TPU pods). Elsewhere set ``FT_JAX_COORDINATOR=host:port``,
    ``FT_JAX_PROCESSES`` and ``FT_JAX_PROCESS`` too.
    """
    if os.environ.get("FT_JAX_DISTRIBUTED", "0") in ("", "0") or jax.distributed.is_initialized():
        return
    coordinator = os.environ.get("FT_JAX_COORDINATOR")
    if coordinator is None:
        jax.distributed.initialize()
        return
    missing = [name for name in ("FT_JAX_PROCESSES", "FT_JAX_PROCESS") if not os.environ.get(name, "").isdigit()]
    if missing:
        raise ValueError(f"{missing[0]} is not a number, but FT_JAX_COORDINATOR is {coordinator}; set it as well")
    jax.distributed.initialize(coordinator, int(os.environ["FT_JAX_PROCESSES"]), int(os.environ["FT_JAX_PROCESS"]))
