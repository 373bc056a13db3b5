"""The laws compile hundreds of tiny programs and run each a few times, so compiling is what takes time."""

import gc

import jax
import pytest
from laws import problem


@pytest.fixture(autouse=True)
def quick_compilation():
    """Compiles with few optimisations."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def one_method_in_memory(request, last=[None]):  # noqa: B006
    """Forgets the programs of the method before, so that memory does not grow with the catalogue."""
    parameters = getattr(request.node, "callspec", None)
    name = None if parameters is None else parameters.params.get("name", parameters.params.get("outer"))
    if name != last[0]:
        last[0] = name
        for cached in (problem.compiled, problem.initialise):
            cached.cache_clear()
        jax.clear_caches()
        gc.collect()
    yield
