"""What goes with a release: versions that agree, notes, workflows whose actions are pinned, notebooks that are clean."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import ddim_core

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "_ext"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / ".github"))
import clean
import release_notes
from address import address

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = re.search(r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest
    assert citation["version"] == newest[1] == ddim_core.__version__ == release_notes.version()
    assert citation["date-released"] == newest[2]
    assert re.fullmatch(r"\d+\.\d+\.\d+", ddim_core.__version__)


def test_the_notes_of_a_release():
    notes = release_notes.notes(f"v{ddim_core.__version__}")
    assert len(notes) > 100
    assert "## " not in notes
    with pytest.raises(ValueError, match=r"the tag is v9\.9\.9, and ddim_core\.__version__ is "):
        release_notes.notes("v9.9.9")


def test_a_tag_that_is_not_the_version_ends_in_one_line():
    done = subprocess.run(
        [sys.executable, str(ROOT / ".github" / "release_notes.py"), "v9.9.9"],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_a_citation_has_what_github_asks_for():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= citation.keys()
    assert citation["repository-code"] == address()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_their_commit(path):
    text = path.read_text(encoding="utf-8")
    used = re.findall(r"uses: *(\S+)(.*)", text)
    assert used
    for action, rest in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
        assert re.match(r" +# v\d+\.\d+\.\d+$", rest), f"{action}: say which version that is, and no more"


def test_an_action_has_one_commit():
    pins = {}
    for path in WORKFLOWS:
        for action, commit in re.findall(r"uses: *(\S+)@(\S+)", path.read_text(encoding="utf-8")):
            pins.setdefault(action, set()).add(commit)
    assert {action: commits for action, commits in pins.items() if len(commits) > 1} == {}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_targets_that_there_are(path):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"\bmake ([\w-]+)", text)) <= targets
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}, "more only where a job needs it"
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_clean(path):
    text = path.read_text(encoding="utf-8")
    assert clean.cleaned(text) == text, f"python book/_ext/clean.py {path.relative_to(ROOT)}"


def test_a_notebook_is_cleaned(tmp_path, capsys):
    book = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))
    code = next(cell for cell in book["cells"] if cell["cell_type"] == "code")
    code |= {"execution_count": 3, "outputs": [{"output_type": "stream", "name": "stdout", "text": ["x"]}]}
    code["metadata"] = code["metadata"] | {"scrolled": True}
    path = tmp_path / "dirty.ipynb"
    path.write_text(json.dumps(book), encoding="utf-8")
    assert clean.main([str(path)]) == 1
    assert path.read_text(encoding="utf-8") == NOTEBOOKS[0].read_text(encoding="utf-8")
    assert clean.main([str(path)]) == 0
    path.write_text("[]", encoding="utf-8")
    assert clean.main([str(path)]) == 1
    assert "not cleaned (it is no notebook)" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "[]"
