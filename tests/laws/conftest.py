"""Counts the pairs of law 10 and prints them with the refusals at the end of the run."""

import jax
import pytest

RESULTS = pytest.StashKey[list]()


@pytest.fixture(autouse=True, scope="package")
def quick_compilation():
    """The laws compile hundreds of tiny programs and run each a few times, so compiling is what takes time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def pair_results(request):
    """Where the pairs' results are gathered."""
    return request.config.stash.setdefault(RESULTS, [])


def pytest_terminal_summary(terminalreporter, config):
    """Methods, pairs, and each refused order with its reason."""
    results = config.stash.get(RESULTS, [])
    if not results:
        return
    refused = [pair for pair in results if pair.refusal]
    names = {pair.outer for pair in results}
    lines = [
        f"laws over {len(names)} methods, {len(names) * (len(names) - 1) // 2} pairs in {len(results)} orders: "
        f"{len(results) - len(refused)} train, {len(refused)} are refused",
        *(f"  refused: {pair.refusal}" for pair in refused),
    ]
    for line in lines:
        terminalreporter.write_line(line)
