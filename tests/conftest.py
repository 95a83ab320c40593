"""One thread, few and (in CI) fixed hypothesis examples, and no test that leaves the global random state moved."""

import os

import pytest
import torch
from hypothesis import settings

from ddim_core import Schedule

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
