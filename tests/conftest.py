"""What a bare `pytest` runs; one thread, few and (in CI) fixed hypothesis examples, and the real download cut short."""

import os
import urllib.request
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from ddim_core import Schedule

settings.register_profile("ddim", deadline=None, max_examples=30, derandomize=bool(os.environ.get("CI")))
settings.load_profile("ddim")

HERE = Path(__file__).resolve().parent
# what these need takes minutes to make: they run where they are named, and where they are not, a line says so
BOOK = HERE.parent / "book"
APART = {HERE / "book": "make test-book", HERE / "colab": "make test-colab"}


def _asked(config: pytest.Config) -> list[Path]:
    return [(config.invocation_params.dir / arg.split("::")[0]).resolve() for arg in config.args]


def _left_out(folder: Path, config: pytest.Config) -> bool:
    return not any(path.is_relative_to(folder) for path in _asked(config))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if collection_path in APART and _left_out(collection_path, config) else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for folder, command in APART.items():
        if _left_out(folder, config) and any(folder.is_relative_to(path) for path in _asked(config)):
            terminalreporter.write_line(f"not among them: {folder.relative_to(HERE.parent)} (run `{command}`)")
    if not config.getoption("nbmake", default=False) and any(BOOK.is_relative_to(path) for path in _asked(config)):
        terminalreporter.write_line("not among them: book/*.ipynb (add --nbmake)")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """With more, a sum may change its order, and a busy machine its speed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _sheets_in_one_step(monkeypatch):
    """The sheets of samples that a run leaves are 64 images in 20 steps, and most of the time of a tiny run."""
    monkeypatch.setattr("ddim_core.run._SHEET_STEPS", 1)


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
    monkeypatch.setenv("DDIM_CORE_CACHE", str(tmp_path / "cache"))
    yield
    urllib.request._opener = None
