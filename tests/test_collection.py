"""What pytest runs as people type it: nothing that belongs to the project is left out in silence, nothing else runs."""

import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import ENV, PYTHON

ROOT = Path(__file__).resolve().parents[1]
EVERY, BROWSER, COLAB, NOTEBOOKS = (
    {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)}
    for pattern in ("tests/**/test_*.py", "tests/book/test_*.py", "tests/colab/test_*.py", "book/*.ipynb")
)
TESTS = EVERY - BROWSER - COLAB
MADE = [".venv", ".venv-colab", "_build", "build", "dist", "node_modules", "runs"]
BOTH = ["not among them: tests/book (run `make test-book`)", "not among them: tests/colab (run `make test-colab`)"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project with one test in each file of tests, its settings, and folders that are made while one works with it."""
    root = tmp_path_factory.mktemp("copy")
    for file in [*TESTS, *BROWSER, *COLAB, *(f"{folder}/x/test_x.py" for folder in MADE)]:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("def test(): pass\n", encoding="utf-8")
    for file in ["pyproject.toml", "tests/conftest.py", *NOTEBOOKS]:
        (root / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, root / file)
    for folder in MADE:
        shutil.copy(ROOT / "book" / "errata.ipynb", root / folder / "x" / "x.ipynb")
    # what conftest.py imports takes seconds, and is not needed to find tests
    (root / "torch.py").touch()
    (root / "ddim_core.py").write_text("Schedule = data = None\n", encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("arguments", "files", "says"),
    [
        ("", TESTS, ["not among them: book/*.ipynb (add --nbmake)", *BOTH]),
        ("--nbmake", TESTS | NOTEBOOKS, BOTH),
        ("--nbmake .", TESTS | NOTEBOOKS, BOTH),
        ("--nbmake book", NOTEBOOKS, []),
        ("tests/book", BROWSER, []),
        ("tests tests/colab", TESTS | COLAB, BOTH[:1]),
    ],
)
def test_what_is_run(copy, arguments, files, says):
    assert min(map(len, (TESTS, BROWSER, COLAB, NOTEBOOKS))) > 0
    command = [PYTHON, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    done = subprocess.run(
        [*command, *arguments.split()], cwd=copy, env=ENV, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert {line.split("::")[0] for line in lines if "::" in line} == files
    assert sorted(line for line in lines if line.startswith("not among them")) == says


def test_a_cell_has_time_on_a_slow_machine(pytestconfig):
    assert pytestconfig.option.nbmake_timeout == 900
