"""The laws compile hundreds of tiny programs and run each a few times, so compiling is what takes time."""

import jax
import pytest


@pytest.fixture(autouse=True)
def quick_compilation():
    """Compiles with few optimisations."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
