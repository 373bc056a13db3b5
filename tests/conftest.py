"""Eight virtual CPU devices for every test and a compiler in a hurry, set before jax computes; long tests in turn."""

import collections
import datetime
import os

import held
import pytest
import turns

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("FT_JAX_KEEP_MEMORY", "0")

from ft_jax.testing.quick import compile_quickly

compile_quickly()
LONG = ("slow", "experiment")
"""Tests whose programs run for minutes, and so are worth optimising."""

COUNTS = pytest.StashKey[list]()
TURNS = pytest.StashKey[str]()
SPENT = collections.Counter()
"""Seconds by unit, see `turns.unit`."""
DAY = "FT_JAX_DAY"
"""One number for all workers, whenever they start."""


def pytest_addoption(parser):
    """Long tests in turn, and what they take."""
    parser.addoption("--in-turn", action="store_true", help="of the long tests run today's share, see tests/turns.py")
    parser.addoption("--unseen", action="store_true", help="only laws that docs/laws.jsonl has not seen; adds to it")
    parser.addoption("--measure", action="store_true", help="write what the tests took to tests/seconds.json")


def pytest_configure(config):
    """Everything else is optimised little: a program of a test runs for milliseconds."""
    os.environ.setdefault(DAY, str(datetime.date.today().toordinal()))
    if config.option.unseen and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Seen())
    if config.option.markexpr not in LONG:
        import jax

        # The variable is for processes that tests start.
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Marks the long tests, and leaves out those whose turn it is not."""
    if config.option.unseen:
        lines = held.recorded(held.digests())
        seen = {item.nodeid for item in items if (asked := held.law_of(item.nodeid)) and held.held(lines, asked)}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in seen])
        items[:] = [item for item in items if item.nodeid not in seen]
    known = turns.recorded()
    long = [item for item in items if turns.unit(item.nodeid) in known and not item.get_closest_marker("always")]
    for item in long:
        item.add_marker("long")
    if config.option.in_turn:
        here = {turns.unit(item.nodeid) for item in long}
        chosen = turns.todays(known, turns.digests_of(here), int(os.environ[DAY]))
        config.stash[TURNS] = f"{len(chosen)} of {len(here)} long tests in their turn; make slow runs them all"
        left = [item for item in long if turns.unit(item.nodeid) not in chosen]
        config.hook.pytest_deselected(items=left)
        out = {item.nodeid for item in left}
        items[:] = [item for item in items if item.nodeid not in out]


def pytest_runtest_logreport(report):
    """Adds up what each test took, its fixtures included."""
    SPENT[turns.unit(report.nodeid)] += report.duration


class Seen:
    """Writes down which laws held; of several processes the one that gathers reports does."""

    def pytest_runtest_logreport(self, report):
        """A law that held, or that is not for its method."""
        asked = held.law_of(report.nodeid)
        if asked and ((report.when == "call" and report.passed) or report.skipped):
            held.keep(asked, report.skipped, held.digests())


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
    """A worker hands its counts to the process that prints, and that one writes down what was measured."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["laws"] = session.config.stash.get(COUNTS, [])
        session.config.workeroutput["turns"] = session.config.stash.get(TURNS, None)
    elif session.config.option.measure:
        turns.record(SPENT, turns.digests_of(SPENT))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Gathers a worker's counts."""
    given = getattr(node, "workeroutput", {})
    node.config.stash.setdefault(COUNTS, []).extend(given.get("laws", []))
    if given.get("turns"):
        node.config.stash[TURNS] = given["turns"]


def pytest_terminal_summary(terminalreporter, config):
    """How many methods, pairs, refusals and triples the laws ran over."""
    counts = collections.Counter()
    for found in config.stash.get(COUNTS, []):
        counts.update(found)
    if counts:
        told = ", ".join(f"{number} {what}" for what, number in counts.items())
        terminalreporter.write_line(f"laws, {datetime.date.today()}: {told}")
    if TURNS in config.stash:
        terminalreporter.write_line(config.stash[TURNS])
