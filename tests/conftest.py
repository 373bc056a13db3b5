"""Eight virtual CPU devices for every test and a compiler in a hurry, set before jax computes."""

import collections
import datetime
import os

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("FT_JAX_KEEP_MEMORY", "0")

from ft_jax.testing.quick import compile_quickly

compile_quickly()
LONG = ("slow", "experiment")
"""Tests whose programs run for minutes, and so are worth optimising."""

COUNTS = pytest.StashKey[list]()


def pytest_configure(config):
    """Everything else is optimised little: a program of a test runs for milliseconds."""
    if config.option.markexpr not in LONG:
        import jax

        # The variable is for processes that tests start.
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """Forgets compiled programs after every file: a worker runs hundreds of files, and each keeps its own."""
    yield
    import jax

    jax.clear_caches()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests of one file share a worker and so its compiled programs; the laws do so method by method."""
    from xdist.scheduler import LoadScopeScheduling

    class Sharing(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file, _, test = nodeid.partition("::")
            if "laws/" in file and "[" in test:
                return nodeid if "test_pairs" in file else test[test.index("[") :]
            return file

    return Sharing(config, log)


@pytest.fixture(scope="session")
def law_counts(request):
    """Where the laws say what they have looked at, a list of ``{what: how many}``."""
    return request.config.stash.setdefault(COUNTS, [])


def pytest_sessionfinish(session):
    """A worker hands its counts to the process that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["laws"] = session.config.stash.get(COUNTS, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Gathers a worker's counts."""
    node.config.stash.setdefault(COUNTS, []).extend(getattr(node, "workeroutput", {}).get("laws", []))


def pytest_terminal_summary(terminalreporter, config):
    """How many methods, pairs, refusals and triples the laws ran over."""
    counts = collections.Counter()
    for found in config.stash.get(COUNTS, []):
        counts.update(found)
    if counts:
        told = ", ".join(f"{number} {what}" for what, number in counts.items())
        terminalreporter.write_line(f"laws, {datetime.date.today()}: {told}")
