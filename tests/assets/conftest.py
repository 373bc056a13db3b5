"""An empty cache, and a package index on this computer that pip's settings point to."""

import functools
import http.server
import os
import threading

import pytest
from assets.package_index import Handler, Index


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and pip settings of nothing but what a test sets."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("FT_JAX_WHEELS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("FT_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path, cache, monkeypatch):
    """An index served over http, which pip's settings point to."""
    folder = tmp_path / "index"
    folder.mkdir()
    served = Index(folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, index=served))
    served.url = f"http://127.0.0.1:{server.server_port}/simple"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_INDEX_URL", served.url)
    yield served
    server.shutdown()
    server.server_close()
