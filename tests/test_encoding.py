"""Files are read and written in UTF-8 by name, whatever the machine's locale; and no message fails for a terminal's sake."""

import ast
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from helpers import ENV, PYTHON
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
MADE = {"node_modules", "build", "dist", "_build", "runs"}
SOURCES = sorted(
    path
    for path in ROOT.rglob("*.py")
    if not any(part.startswith(".") or part in MADE for part in path.relative_to(ROOT).parts)
)
NOTEBOOKS = sorted((ROOT / "book").glob("[!.]*.ipynb"))
TEXT = {"read_text": None, "write_text": None, "open": 1, "fdopen": 1, "NamedTemporaryFile": 0}  # where the mode stands
NOT_FILES = {"Image", "tarfile", "webbrowser", "os", "tab", "zipfile"}  # whose `open` opens something else
RUN = {"run", "Popen", "check_output", "check_call", "call"}


def unnamed(code: str) -> list[int]:
    """Lines on which a text file is opened, or a program's answer read, in an encoding that has no name."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and _is_text(node) and not any(k.arg in ("encoding", None) for k in node.keywords)
    ]


def _is_text(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    of = call.func.value.id if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) else ""
    given = {k.arg: k.value for k in call.keywords}
    if of == "subprocess" and name in RUN:
        return any(isinstance(given.get(k), ast.Constant) and given[k].value for k in ("text", "universal_newlines"))
    if name not in TEXT or (name == "open" and of in NOT_FILES):
        return False
    if TEXT[name] is None:
        return True
    at = TEXT[name] - (name == "open" and isinstance(call.func, ast.Attribute) and of != "io")  # Path.open has it first
    mode = given.get("mode", call.args[at] if len(call.args) > at else None)
    if isinstance(mode, ast.Constant):
        return isinstance(mode.value, str) and "b" not in mode.value and set(mode.value) <= set("rwax+t")
    return mode is None and name != "NamedTemporaryFile" and not (isinstance(call.func, ast.Attribute) and of != "io")


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("open(p)", True),
        ("open(p, 'w')", True),
        ("open(p, mode='a')", True),
        ("open(p, 'rb')", False),
        ("open(p, encoding='utf-8')", False),
        ("p.open('w')", True),
        ("p.open('wb')", False),
        ("Path(p).read_text()", True),
        ("p.read_text(encoding='utf-8')", False),
        ("p.write_text(x)", True),
        ("os.fdopen(f, 'w')", True),
        ("Image.open(p)", False),
        ("os.open(p, 0)", False),
        ("subprocess.run(c, text=True)", True),
        ("subprocess.run(c, text=True, encoding='utf-8')", False),
        ("subprocess.run(c)", False),
    ],
)
def test_what_is_looked_for(code, found):
    assert unnamed(code) == [1] * found


def test_every_text_file_is_opened_in_utf_8_by_name():
    assert len(SOURCES) > 80
    places = [f"{p.relative_to(ROOT)}:{n}" for p in SOURCES for n in unnamed(p.read_text(encoding="utf-8"))]
    assert places == []


def test_in_notebooks_too():
    assert len(NOTEBOOKS) > 9
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                code = re.sub(
                    r"^(\s*)[!%].*", r"\1pass", "".join(cell["source"]), flags=re.M
                )  # commands of the notebook
                assert unnamed(code) == [], path.name


# --- a machine whose locale is C ---------------------------------------------------------------------------------

C = {k: v for k, v in ENV.items() if k not in ("LANG", "LC_CTYPE", "PYTHONIOENCODING")} | {
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
}


def run(*argv, **options):
    return subprocess.run([PYTHON, *map(os.fspath, argv)], env=C, capture_output=True, **options)


def test_the_locale_is_what_this_test_is_about():
    done = run(
        "-c", "import locale, sys; print(locale.getpreferredencoding(False), sys.stdout.encoding, sys.flags.utf8_mode)"
    )
    assert done.stdout.split()[2] == b"0"
    assert b"utf" not in done.stdout.lower()


def test_help_in_c():
    """All helps in one process: to start one takes seconds."""
    every = [["--help"], ["--version"], ["train", "--help"], ["sample", "--help"], ["data", "--help"]]
    code = (
        "import sys\nfrom ddim_core.cli import main\n"
        f"for argv in {every}:\n    try: main(argv)\n    except SystemExit as end: print('|', end.code)"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    *said, rest = done.stdout.split(b"| 0")
    assert len(said) == len(every)
    assert all(b"ddim" in part for part in said)
    assert not rest.strip()


def test_messages_in_c(tmp_path):
    """Names that the terminal cannot show are escaped, in what is printed and in what goes wrong."""
    place = os.fsencode(tmp_path) + "/töpfe/龍".encode()
    os.makedirs(place)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", place + b"/1.png")
    done = run("-m", "ddim_core", "data", "töpfe".encode(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"1 images of 8x8" in done.stdout
    assert b"1 classes:" in done.stdout
    done = run("-m", "ddim_core", "data", "./grün".encode(), cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith(b"ddim: ./gr")
    assert done.stderr.count(b"\n") == 1
    train = ["train", "mnist", "--resolution", "8", "--epochs", "1", "--amp", "fp32", "--out", "run", "--dataset"]
    quick = "from ddim_core import cli, run; run._SHEET_STEPS = 1; raise SystemExit(cli.main())"
    done = run("-c", quick, *train, "töpfe".encode(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["images"] == 1


def test_all_characters_reach_a_terminal_of_seven_bits():
    say = r"print('\xf6 \u9f8d \udce9'); print('\xf6', file=sys.stderr)"
    done = run("-c", f"import sys; from ddim_core.errors import printable; printable(); {say}")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\\xf6 \\u9f8d \\udce9\n", b"\\xf6\n")


def test_the_book_s_extension_reads_in_c():
    """What `make book` imports and does before Sphinx begins: pages, equations, address, hash of the package."""
    code = (
        "import sys; sys.path.insert(0, 'book/_ext'); import address, assets, equations, ddim_book, outputs; "
        "print(len(equations.equations()) > 50, len(equations.title('notation.md')) > 3, address.address()[:5], "
        "len(outputs.digest_of_package()), assets.present() in (True, False))"
    )
    done = run("-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [b"True", b"True", b"https", b"16", b"True"]
