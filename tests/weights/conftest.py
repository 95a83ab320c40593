"""No cache, no mirror and no proxy of the one who runs the tests."""

import huggingface_hub.constants
import pytest


@pytest.fixture(autouse=True)
def _away_from_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("DDIM_CORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("URL", "HASH"):
        monkeypatch.delenv(f"DDIM_CORE_CIFAR10_{name}", raising=False)
