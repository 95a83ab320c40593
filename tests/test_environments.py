"""Lists of packages that must agree: what the package asks for, what builds the book, and Colab's, Binder's, the oldest."""

import importlib.util
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
ENVS = ROOT / "tests" / "envs"
ASKED = {
    canonicalize_name(r.name): r.specifier
    for r in map(
        Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    )
}
TORCH = {"torch", "torchvision"}

spec = importlib.util.spec_from_file_location("colab", ENVS / "colab.py")
colab = importlib.util.module_from_spec(spec)
spec.loader.exec_module(colab)
PINNED, COLAB, LOWEST = (
    colab.listed(path.read_text(encoding="utf-8"))
    for path in (ROOT / "requirements.txt", ENVS / "colab.txt", ENVS / "lowest.txt")
)


@pytest.mark.parametrize(("versions", "without"), [(PINNED, set()), (COLAB, TORCH)], ids=["the project's", "Colab's"])
def test_versions_are_those_that_the_package_asks_for(versions, without):
    assert ASKED.keys() - versions.keys() == without
    assert not [name for name in ASKED if name in versions and versions[name] not in ASKED[name]]


def test_no_torch_is_accepted_that_runs_code_from_weights():
    """CVE-2025-32434, mended in 2.6; torchvision 0.21 is the one that goes with it."""
    assert not ASKED["torch"].contains("2.5.1")
    assert not ASKED["torchvision"].contains("0.20.1")


def test_every_pin_has_its_reason():
    lines = [
        line for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"
    ]
    assert not [line for line in lines if not re.fullmatch(r"[\w-]+==\S+ +# \S.*", line)]


def test_the_tools_of_the_oldest_are_the_project_s():
    """All but the peer, whose newest needs newer versions of others, and uv, which looks for the oldest."""
    other = {name: wanted for name, wanted in LOWEST.items() if PINNED.get(name) != wanted}
    brought = {"sphinx", "myst-nb", "jupyter-cache"}  # here they came with jupyter-book, which is pinned
    assert other.keys() == brought | {"diffusers", "uv"}
    assert {name: other[name] for name in brought} == {name: version(name) for name in brought}


def test_binder_has_what_the_package_asks_for():
    binder = yaml.safe_load((ROOT / "binder" / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    names = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base"}
    there = {re.split("[=<>]", line)[0].replace("_", "-") for line in binder}
    assert there == {names.get(name, name) for name in ASKED} | {"python", "pip"}
    assert (ROOT / "binder" / "postBuild").stat().st_mode & 0o100


FREEZE = """# Colab's list
anywidget==99.0
Babel==2.1
IPython==99.1
torch @ file:///torch-2.99.whl
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A list of two packages, to be made anew, and an environment that holds one more."""
    path = tmp_path / "colab.txt"
    path.write_text("# Of somebody, as of 2020-01-01.\n# Second line.\nIPython==7\nanywidget==0.9\n", encoding="utf-8")
    monkeypatch.setattr(colab, "LIST", path)
    (tmp_path / "lib" / "python3" / "site-packages" / "babel-2.dist-info").mkdir(parents=True)
    (tmp_path / "lib" / "python3" / "site-packages" / "babel-2.dist-info" / "METADATA").write_text(
        "Name: babel\nVersion: 2\n",
        encoding="utf-8",
    )
    (tmp_path / "freeze.txt").write_text(FREEZE, encoding="utf-8")
    return tmp_path


def test_colab_s_list_is_taken_from_a_copy(own):
    colab.renew(own / "freeze.txt", "2030-12-31", own)
    assert (own / "colab.txt").read_text(encoding="utf-8") == (
        "# Of somebody, as of 2030-12-31.\n# Second line.\nanywidget==99.0\nbabel==2.1\nipython==99.1\n"
    )


def test_a_list_that_is_none_changes_nothing(own):
    before = (own / "colab.txt").read_text(encoding="utf-8")
    (own / "freeze.txt").write_text("anywidget==1\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match="has no ipython: is it Colab's list"):
        colab.renew(own / "freeze.txt", "2030-12-31", own)
    assert (own / "colab.txt").read_text(encoding="utf-8") == before


class Found:
    def __init__(self, version: str) -> None:
        self.version = version


@pytest.mark.parametrize(
    ("installed", "says"),
    [
        ({"ipython": "7"}, "colab.txt has anywidget, which nothing asks for"),
        ({"ipython": "8", "anywidget": "0.9"}, "ipython is 8, in Colab 7"),
        ({"ipython": "7", "anywidget": "0.9", "nvidia-nccl": "2"}, "could be borrowed: nvidia-nccl"),
    ],
)
def test_an_environment_that_is_not_colab_s(own, installed, says):
    with pytest.raises(RuntimeError, match=says):
        colab.check({name: Found(version) for name, version in installed.items()})


def test_an_environment_that_is_colab_s(own, capsys):
    colab.check({name: Found(v) for name, v in {"ipython": "7", "anywidget": "0.9", "other": "1"}.items()})
    assert capsys.readouterr().out == (
        "Colab's versions: ipython 7, anywidget 0.9.\nThe newest that go with them: other 1.\n"
    )
