"""Eight virtual CPU devices for every test and a compiler in a hurry, set before jax starts."""

import collections
import datetime
import importlib.util
import mmap
import os
import pathlib

import pytest


def known_to_xla(flag: str) -> bool:
    """Whether the installed jaxlib has the flag: XLA ends the process at one that it does not know."""
    library = pathlib.Path(importlib.util.find_spec("jaxlib").origin).with_name("libjax_common.so")
    if not library.exists():
        return False
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(flag.encode()) >= 0


FLAGS = {"--xla_force_host_platform_device_count": "8"}
if known_to_xla("xla_cpu_use_fusion_emitters"):
    # The older code generator of fusions compiles twice as fast, and the tests' programs run for milliseconds.
    FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
if known_to_xla("xla_cpu_parallel_codegen_split_count"):
    # A program of a tiny model is not worth cutting up for several threads: a third less processor time a compilation.
    FLAGS["--xla_cpu_parallel_codegen_split_count"] = "1"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("FT_JAX_KEEP_MEMORY", "0")
given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join([given, *(f"{flag}={value}" for flag, value in FLAGS.items() if flag not in given)])

COUNTS = pytest.StashKey[list]()


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
