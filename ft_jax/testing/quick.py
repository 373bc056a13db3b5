"""How to compile hundreds of tiny programs that run for milliseconds."""

import contextlib
import importlib.util
import mmap
import os
import pathlib
from collections.abc import Iterator

import jax

OPTIMISING_LITTLE = "jax_disable_most_optimizations"
FLAGS = {
    # The older code generator of fusions compiles twice as fast.
    "xla_cpu_use_fusion_emitters": "false",
    # A tiny program is not worth cutting up for several threads: a third less processor time a compilation.
    "xla_cpu_parallel_codegen_split_count": "1",
}


def compile_quickly(devices: int = 8) -> None:
    """Makes the processor `devices` virtual ones and its compiler quick, for this process and those it starts.

    It sets ``XLA_FLAGS``, which XLA reads at the first computation: call it before. Flags that are set already stay as
    they are.

    Example:
      >>> compile_quickly()
      >>> len(jax.devices())
      8
    """
    flags = {"xla_force_host_platform_device_count": devices}
    flags |= {flag: value for flag, value in FLAGS.items() if _known_to_xla(flag)}
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = " ".join([given, *(f"--{name}={to}" for name, to in flags.items() if name not in given)])


@contextlib.contextmanager
def few_optimisations() -> Iterator[None]:
    """What is compiled here is optimised little: a fifth of the time, for programs that run for milliseconds.

    Example:
      >>> with few_optimisations():
      ...     int(jax.numpy.add(1, 1))
      2
    """
    before = jax.config.values[OPTIMISING_LITTLE]
    jax.config.update(OPTIMISING_LITTLE, True)
    try:
        yield
    finally:
        jax.config.update(OPTIMISING_LITTLE, before)


def _known_to_xla(flag: str) -> bool:
    """Whether the installed jaxlib has the flag: XLA ends the process at one that it does not know."""
    library = pathlib.Path(importlib.util.find_spec("jaxlib").origin).with_name("libjax_common.so")
    if not library.exists():
        return False
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(flag.encode()) >= 0
