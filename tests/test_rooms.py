"""The package's rooms: what imports what, and that tests stand where the modules do."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "ddim_core"
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imported(name: str, everywhere: bool) -> set[str]:
    """Modules of the package that a module imports at its top, or anywhere."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join(
                [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [node.module])]
            )
            names = {f"{base}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= names or {base}
    return found & MODULES.keys() - {name}


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """A path that comes back to its start, or nothing."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for other in sorted(graph[name]):
                if found := walk(other, [*path, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def test_a_cycle_is_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_import_comes_back():
    """Imports inside functions, which wait for the first call, count as well; the package's own front door does not."""
    graph = {name: imported(name, everywhere=True) - {"ddim_core"} for name in MODULES if name != "ddim_core"}
    assert cycle(graph) == []
    assert graph["ddim_core.sample"] >= {"ddim_core.schedule"}, "or nothing was looked at"


def test_what_the_book_is_about_stands_on_its_own():
    assert imported("ddim_core.schedule", everywhere=True) == set()
    assert imported("ddim_core.unet", everywhere=True) == set()


def test_every_module_has_its_tests():
    tests = {path.stem.removeprefix("test_") for path in (PACKAGE.parent / "tests").rglob("test_*.py")}
    tests |= {path.name for path in (PACKAGE.parent / "tests").iterdir() if path.is_dir()}
    without = {name.rpartition(".")[2] for name in MODULES} - tests - {"ddim_core", "__main__"}
    assert without == set()
