"""The outputs of chapters, kept where Sphinx looks for them: nothing is run twice, and what must run runs side by side.

python book/_ext/outputs.py NOTEBOOKS PACKAGE      keeps what notebooks that ran elsewhere, with that package, have put out (`make test`)
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import assets
import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from sphinx.errors import ExtensionError

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

ROOT = assets.ROOT
CACHES = ROOT / "_build" / ".jupyter_cache"


def digest_of_package(root: Path = ROOT) -> str:
    """A hash of all that a chapter's outputs depend on besides its own source: ddim_core with its data, and the pinned set.

    jupyter-cache compares notebooks only: without the hash in its path, outputs would outlive the code that made them.
    """
    digest = hashlib.sha256()
    package = [p for p in (root / "ddim_core").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    for path in sorted(package):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    pinned = ROOT / "requirements.txt"
    digest.update(pinned.name.encode() + b"\0" + hashlib.sha256(pinned.read_bytes()).digest())
    return digest.hexdigest()[:16]


def cache(folder: Path | None = None) -> JupyterCacheAbstract:
    """The cache of this version of ddim_core, or the one in `folder`."""
    where = folder or CACHES / digest_of_package()
    where.mkdir(parents=True, exist_ok=True)
    return get_cache(str(where))


async def run(notebook: NotebookNode, path: Path, threads: int = 0) -> float:
    """Run a notebook in its own folder on this checkout's package; returns seconds. Raises what nbclient raises."""
    began = time.perf_counter()
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([env["PYTHONPATH"]] if env.get("PYTHONPATH") else [])])
    env["DDIM_BOOK"] = "1"  # no widgets that need a kernel
    if threads:
        env.setdefault("OMP_NUM_THREADS", str(threads))
    client = NotebookClient(
        notebook,
        timeout=900,
        record_timing=False,  # the cache takes metadata for a part of the notebook
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=40"],  # a new kernel warns of things that are none here
    )
    await client.async_execute(env=env)
    return time.perf_counter() - began


def keep(notebook: NotebookNode, path: Path, seconds: float, kept: JupyterCacheAbstract) -> None:
    """Put a notebook's outputs into the cache, under its source."""
    bundle = CacheBundleIn(notebook, str(path), data={"execution_seconds": seconds})
    kept.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def executed(path: Path, folder: Path | None = None, say: Callable[[str], object] = print) -> NotebookNode:
    """A notebook with its outputs: from the cache of the build (or of `folder`), or else run once and put there."""
    kept = cache(folder)
    notebook = nbformat.read(path, 4)
    try:
        return kept.merge_match_into_notebook(notebook)[1]
    except KeyError:
        say(f"{path.name}: running it, as no build has yet")
    keep(notebook, path, asyncio.run(run(notebook, path)), kept)
    return notebook


def workers() -> int:
    """How many chapters run at once: $WORKERS, or else two, where there are two processors. Raises ValueError."""
    given = os.environ.get("WORKERS")
    if given is None:
        return min(2, os.cpu_count() or 1)
    if not (given.isdecimal() and int(given)):
        raise ValueError(f"WORKERS must be a whole number from 1 on, not {given!r}")
    return int(given)


def missing(paths: list[Path], kept: JupyterCacheAbstract) -> list[tuple[Path, NotebookNode]]:
    """Those notebooks that the cache has no outputs of."""
    found = []
    for path in paths:
        notebook = nbformat.read(path, 4)
        try:
            kept.match_cache_notebook(notebook)
        except KeyError:
            found.append((path, notebook))
    return found


def run_ahead(
    paths: list[Path], kept: JupyterCacheAbstract, at_once: int, say: Callable[[str], object] = print
) -> list[Path]:
    """Run those notebooks that the cache does not have, `at_once` at a time. Returns those that failed: nothing is kept of them."""
    todo = missing(paths, kept)
    threads = max(1, (os.cpu_count() or 1) // max(1, min(at_once, len(todo))))

    async def one(path: Path, notebook: NotebookNode, free: asyncio.Semaphore) -> bool:
        async with free:
            try:
                seconds = await run(notebook, path, threads)
            except (CellExecutionError, CellTimeoutError, DeadKernelError):
                say(f"{path.name}: failed")  # Sphinx will run it once more, and say what went wrong, and where
                return False
        keep(notebook, path, seconds, kept)
        say(f"{path.name}: run in {seconds:.0f} s")
        return True

    async def every() -> list[bool]:
        free = asyncio.Semaphore(at_once)
        return await asyncio.gather(*(one(path, notebook, free) for path, notebook in todo))

    return [path for (path, _), went in zip(todo, asyncio.run(every()), strict=True) if not went]


def before_sphinx(app: Sphinx, env: BuildEnvironment, docnames: list[str]) -> None:
    """Chapters that Sphinx is about to read, and would run one after the other, run now, side by side."""
    if app.config.nb_execution_mode != "cache":
        return
    paths = [Path(app.env.doc2path(name)) for name in docnames]
    left_out = {ROOT / name for name in app.config.nb_execution_excludepatterns}
    chapters = [path for path in paths if path.suffix == ".ipynb" and path not in left_out]
    try:
        at_once = workers()
    except ValueError as error:
        raise ExtensionError(str(error)) from error
    run_ahead(chapters, get_cache(app.config.nb_execution_cache_path), at_once)


def seconds_of(notebook: NotebookNode) -> float:
    """How long a notebook ran, by the times that its cells were given, which it loses here: the cache knows no such metadata."""
    times = [t for cell in notebook.cells for t in cell.metadata.pop("execution", {}).values()]
    stamps = [datetime.fromisoformat(t.replace("Z", "+00:00")) for t in times]
    return (max(stamps) - min(stamps)).total_seconds() if stamps else 0.0


def keep_folder(folder: Path, package: Path, kept: JupyterCacheAbstract, book: Path = ROOT / "book") -> list[str]:
    """Keep what the notebooks in `folder` put out, where they were run with the very package of this checkout, in `package`.

    Left out are those whose source is not the book's, that say where they ran, or that ask their environment whether they are tested or in the book. Returns the names kept.
    """
    if digest_of_package(package) != digest_of_package():
        return []
    names = []
    for path in sorted(folder.glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        notebook = nbformat.reads(text, 4)
        ours = nbformat.read(book / path.name, 4)
        same = [cell.source for cell in notebook.cells] == [cell.source for cell in ours.cells]
        if not same or str(folder) in text or str(package) in text or "os.environ" in text:
            continue
        seconds = seconds_of(notebook)
        ran = any(cell.get("execution_count") for cell in notebook.cells)
        if ran:
            keep(notebook, book / path.name, seconds, kept)
            names.append(path.stem)
    return names


def setup(app: Sphinx) -> None:
    app.connect("env-before-read-docs", before_sphinx)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("outputs.py: which folders? outputs.py NOTEBOOKS PACKAGE")
    notebooks, package = (Path(name).resolve() for name in sys.argv[1:])
    print("kept for the book:", ", ".join(keep_folder(notebooks, package, cache())) or "nothing")
