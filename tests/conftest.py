"""One thread, few and (in CI) fixed hypothesis examples, and no test that leaves the global random state moved."""

import os
import urllib.request

import pytest
import torch
from hypothesis import settings

from ddim_core import Schedule, data

settings.register_profile("ddim", deadline=None, max_examples=30, derandomize=bool(os.environ.get("CI")))
settings.load_profile("ddim")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """With more, a sum may change its order, and a busy machine its speed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def schedule() -> Schedule:
    return Schedule.linear()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The real download, which ends at once: nothing listens behind the proxy, and the cache is empty."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # made once, with the proxies of that moment
    monkeypatch.setattr(data, "CACHE", tmp_path / "cache")
    yield
    urllib.request._opener = None
