"""The project's address is the same wherever it stands, and a first cell that cannot install from it says what to do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ENV, PYTHON

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))
import address

ROOT = address.ROOT
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
ELSEWHERE = "https://github.com/some-one/other.book"


def found(root: Path) -> dict[str, set[str]]:
    """What stands for the project in each file that the address is stamped into."""
    return {
        path.relative_to(root).as_posix(): {
            m[0].removeprefix(m[1]) for m in address.STAMPED.finditer(path.read_text(encoding="utf-8"))
        }
        for path in address.stamped(root)
    }


@pytest.fixture
def copy(tmp_path):
    """All pages and settings of the project, to be stamped anew."""
    (tmp_path / "book").mkdir()
    for path in [ROOT / "_config.yml", *address.stamped()]:
        shutil.copy(path, tmp_path / path.relative_to(ROOT))
    return tmp_path


def test_every_place_has_the_address_of_the_settings():
    assert len(NOTEBOOKS) > 10
    assert found(ROOT) == {place: {address.address()} for place in found(ROOT)}


def test_it_stands_nowhere_else():
    """Or `make address` would leave it as it was."""
    tracked = subprocess.run(
        ["git", "grep", "-lF", address.address()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    assert set(tracked.stdout.split()) <= {"_config.yml", *found(ROOT)}


@pytest.mark.parametrize("given", [ELSEWHERE, f"{ELSEWHERE}/", f"{ELSEWHERE}.git"])
def test_another_address(copy, given):
    before = address.address(copy)
    address.stamp(given, copy)
    assert address.address(copy) == ELSEWHERE
    assert found(copy) == {place: {ELSEWHERE} for place in found(ROOT)}
    assert not [path for path in address.stamped(copy) if before in path.read_text(encoding="utf-8")]
    address.stamp(before, copy)
    assert not [
        path
        for path in address.stamped(copy)
        if path.read_text(encoding="utf-8") != (ROOT / path.relative_to(copy)).read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("file", ["README.md", "book/noising.ipynb", "book/equations.md"])
def test_a_place_that_disagrees_is_seen_and_put_right(copy, file):
    path = copy / file
    path.write_text(path.read_text(encoding="utf-8").replace(address.address(), ELSEWHERE), encoding="utf-8")
    assert found(copy)[file] == {ELSEWHERE}
    address.stamp(address.address(copy), copy)
    assert found(copy) == found(ROOT)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "ddim-book",
        "https://github.com",
        "https://github.com/someone",
        "git@github.com:a/b",
        "https://gitlab.com/a/b",
    ],
)
def test_no_address(copy, bad):
    with pytest.raises(ValueError, match="is no address such as"):
        address.stamp(bad, copy)
    assert found(copy) == found(ROOT)


def test_the_first_cell_is_the_same_in_all():
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert cells[0] == {
            "cell_type": "code",
            "execution_count": None,
            "id": "setup",
            "metadata": {"tags": ["remove-cell"]},
            "outputs": [],
            "source": address.FIRST_CELL.format(url=address.address()).splitlines(keepends=True),
        }, path.name


# what IPython makes of a first cell where there is no ddim_core, and (unless `comes`) none after pip has run
RUN = """
import importlib.util, sys
from IPython.core.interactiveshell import InteractiveShell
cell, comes = sys.argv[1:]
answers, find = iter([None, comes == "comes"]), importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: next(answers) if name == "ddim_core" else find(name, *rest)
done = InteractiveShell.instance(colors="NoColor").run_cell(cell)
print("went on" if done.success else "stopped")
"""


def first_cell(source: str, comes: str) -> str:
    cell = address.FIRST_CELL.format(url=address.address()).replace(f"git+{address.address()}", source)
    assert f"!pip install -qqq {source}" in cell
    env = {k: v for k, v in ENV.items() if k != "PYTHONWARNINGS"} | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    env["PATH"] = f"{Path(PYTHON).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run([PYTHON, "-c", RUN, cell, comes], env=env, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("scheme", ["git+file", "file"])
def test_a_first_cell_that_cannot_install_says_what_to_do(tmp_path, scheme):
    said = first_cell(f"{scheme}://{tmp_path}/nowhere", "never comes")
    line = "pip cannot get ddim_core: upload its wheel here and %pip install that, or work in a clone."
    assert said.splitlines() == [line, "stopped"], "and cells below it do not run"


def test_a_first_cell_that_can_install_goes_on():
    assert first_cell("pip", "comes").rstrip().endswith("went on")
