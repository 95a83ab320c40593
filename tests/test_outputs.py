"""What chapters put out is kept where Sphinx finds it: run once, several at a time, and nothing kept that is not the book's."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))
import outputs
from outputs import ROOT

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}


def written(path: Path, source: str) -> Path:
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A"), new_code_cell(source)], metadata=KERNEL), path)
    return path


def test_a_notebook_runs_once(tmp_path):
    ran = tmp_path / "ran"
    source = f"from pathlib import Path\npath = Path({str(ran)!r})\npath.write_text(path.read_text() + 'x' if path.exists() else 'x')"
    path = written(tmp_path / "count.ipynb", source)
    said = []
    first = outputs.executed(path, tmp_path / "cache", said.append)
    again = outputs.executed(path, tmp_path / "cache", said.append)
    assert ran.read_text(encoding="utf-8") == "x"
    assert first.cells[1].outputs == again.cells[1].outputs != []
    assert len(said) == 1


WAIT_FOR_OTHER = """import os, time
from pathlib import Path
here = Path({folder!r})
(here / "{me}").touch()
began = time.monotonic()
while not (here / "{other}").exists():
    assert time.monotonic() - began < 120, "the other does not come"
    time.sleep(0.05)
print("{me} on", os.environ["OMP_NUM_THREADS"], os.environ["DDIM_BOOK"])"""


def test_two_notebooks_run_at_once_and_a_failed_one_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    pair = [
        written(tmp_path / f"{me}.ipynb", WAIT_FOR_OTHER.format(folder=str(meeting), me=me, other=other))
        for me, other in ("ab", "ba")
    ]
    wrong = written(tmp_path / "wrong.ipynb", "1 / 0")
    kept = outputs.cache(tmp_path / "cache")
    said = []
    assert outputs.run_ahead([*pair, wrong], kept, 2, said.append) == [wrong]
    assert sorted(line.split(":")[0] for line in said) == ["a.ipynb", "b.ipynb", "wrong.ipynb"]
    assert [path for path, _ in outputs.missing([*pair, wrong], kept)] == [wrong]
    for path in pair:
        there = outputs.executed(path, tmp_path / "cache", pytest.fail)
        assert there.cells[1].outputs[0].text == f"{path.stem} on 1 1\n"
    assert outputs.run_ahead(pair, kept, 2, said.append) == []
    assert len(said) == 3


@pytest.fixture
def ran(tmp_path) -> tuple[Path, Path, Path]:
    """A book, a folder where its one notebook was run as nbmake runs it, and the package that it was run with."""
    book, folder, package = (tmp_path / name for name in ("book", "folder", "package"))
    book.mkdir()
    folder.mkdir()
    shutil.copytree(ROOT / "ddim_core", package / "ddim_core", ignore=shutil.ignore_patterns("__pycache__"))
    path = written(book / "one.ipynb", "print(1 + 1)")
    notebook = nbformat.read(path, 4)
    asyncio.run(outputs.run(notebook, path))
    stamps = {"iopub.execute_input": "2026-01-01T10:00:00.5Z", "shell.execute_reply": "2026-01-01T10:00:03.000000Z"}
    notebook.cells[1].metadata["execution"] = stamps
    nbformat.write(notebook, folder / "one.ipynb")
    return book, folder, package


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_outputs_of_the_same_source_and_package_are_kept(ran, tmp_path):
    book, folder, package = ran
    kept = outputs.cache(tmp_path / "cache")
    assert outputs.keep_folder(folder, package, kept, book) == ["one"]
    there = outputs.executed(book / "one.ipynb", tmp_path / "cache", pytest.fail)
    assert there.cells[1].outputs[0].text == "2\n"
    assert "execution" not in there.cells[1].metadata
    (record,) = kept.list_cache_records()
    assert record.data["execution_seconds"] == 2.5


@pytest.mark.parametrize("what", ["source", "not run", "says where", "asks the environment", "package"])
def test_other_outputs_are_not_kept(what, ran, tmp_path):
    book, folder, package = ran
    one = folder / "one.ipynb"
    if what == "source":
        change(one, "1 + 1", "1 + 0 + 1")
    elif what == "not run":
        shutil.copy(book / "one.ipynb", one)
    elif what == "says where":
        change(one, '"2\\n"', f'"{folder}\\n"')
    elif what == "asks the environment":
        for path in (one, book / "one.ipynb"):
            change(path, "1 + 1", "1 + 1)  # os.environ (")
    else:
        (package / "ddim_core" / "more.py").write_text("", encoding="utf-8")
    kept = outputs.cache(tmp_path / "cache")
    assert outputs.keep_folder(folder, package, kept, book) == []
    assert not kept.list_cache_records()


def test_the_number_of_workers_is_one_line_when_wrong(monkeypatch):
    monkeypatch.setenv("WORKERS", "many")
    with pytest.raises(ValueError, match="WORKERS must be a whole number from 1 on, not 'many'"):
        outputs.workers()
    monkeypatch.setenv("WORKERS", "3")
    assert outputs.workers() == 3
    monkeypatch.delenv("WORKERS")
    assert 1 <= outputs.workers() <= 2


def test_time_is_that_from_first_to_last_cell():
    notebook = new_notebook(cells=[new_code_cell("1"), new_code_cell("2"), new_code_cell("3")])
    assert outputs.seconds_of(notebook) == 0
    for k, cell in enumerate(notebook.cells[:2]):
        cell.metadata["execution"] = {"a": f"2026-01-01T10:0{k}:00Z", "b": f"2026-01-01T10:0{k}:30Z"}
    assert outputs.seconds_of(notebook) == 90


def test_started_by_hand_without_folders_is_one_line():
    done = subprocess.run(
        [sys.executable, ROOT / "book/_ext/outputs.py"], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 1
    assert done.stderr == "outputs.py: which folders? outputs.py NOTEBOOKS PACKAGE\n"
