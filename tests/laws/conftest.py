"""The laws compile hundreds of tiny programs and run each a few times, so compiling is what takes time."""

import gc

import jax
import pytest

KEPT = 12
"""Methods after which a worker forgets compiled programs: each adds some 50 MiB, and shares the small ones."""


@pytest.fixture(autouse=True)
def bounded_programs(request, seen=[]):  # noqa: B006
    """Keeps the programs of a few methods at a time, so that memory does not grow with the catalogue."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    if name and name not in seen:
        if len(seen) == KEPT:
            seen.clear()
            jax.clear_caches()
            gc.collect()
        seen.append(name)
    yield


def pytest_collection_modifyitems(items):
    """All laws of a method follow each other, so that they share its programs."""
    own = [index for index, item in enumerate(items) if "name" in getattr(item, "fixturenames", ()) and at_home(item)]
    ordered = sorted((items[index] for index in own), key=lambda item: item.callspec.params["name"])
    for index, item in zip(own, ordered, strict=True):
        items[index] = item


def at_home(item) -> bool:
    """Whether a test is of this folder: the hook sees all."""
    return item.path.parent.name == "laws"
