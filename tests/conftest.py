"""Eight virtual CPU devices for every test and a compiler in a hurry, set before jax starts."""

import dataclasses
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

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("FT_JAX_KEEP_MEMORY", "0")
given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join([given, *(f"{flag}={value}" for flag, value in FLAGS.items() if flag not in given)])

PAIRS = pytest.StashKey[list]()


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
            one_method = file.endswith(("test_laws.py", "test_resume.py")) and "laws" in file and "[" in test
            return test[test.index("[") :] if one_method else nodeid if "test_pairs" in file else file

    return Sharing(config, log)


@pytest.fixture(scope="session")
def pair_results(request):
    """Where the results of law 10 are gathered."""
    return request.config.stash.setdefault(PAIRS, [])


def pytest_sessionfinish(session):
    """A worker hands its pairs to the process that prints."""
    if hasattr(session.config, "workeroutput"):
        found = session.config.stash.get(PAIRS, [])
        session.config.workeroutput["pairs"] = [dataclasses.asdict(pair) for pair in found]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Gathers a worker's pairs."""
    node.config.stash.setdefault(PAIRS, []).extend(getattr(node, "workeroutput", {}).get("pairs", []))


def pytest_terminal_summary(terminalreporter, config):
    """Methods, pairs, and each refused order with its reason."""
    results = [pair if isinstance(pair, dict) else dataclasses.asdict(pair) for pair in config.stash.get(PAIRS, [])]
    if not results:
        return
    refused = [pair["refusal"] for pair in results if pair["refusal"]]
    count = len({pair["outer"] for pair in results})
    terminalreporter.write_line(
        f"laws over {count} methods, {count * (count - 1) // 2} pairs in {len(results)} orders: "
        f"{len(results) - len(refused)} train, {len(refused)} are refused"
    )
    for refusal in sorted(refused):
        terminalreporter.write_line(f"  refused: {refusal}")
