"""Imports inside the package point one way, from the command line down to the errors, and cost nothing early."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "streaming"

LAYERS = (
    ("errors", "core"),
    ("telemetry", "codecs", "order"),
    ("sources.base",),
    ("sources", "index"),
    ("resilience", "testing"),
    ("prefetch",),
    ("cache",),
    ("link",),
    ("engine",),
    ("adapter",),
    ("loader",),
    ("monitoring",),
    ("cli",),
)
"""From the lowest to the highest: a name stands for a module, or a folder with all that is in it.

What stands in one row does not import its neighbours. The foundation alone is one thing in two places: an error masks
secrets in its message, and what masks and checks raises errors.
"""

FOUNDATION = LAYERS[0]
ROOT = "streaming"


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path], *, at_import: bool) -> Iterator[str]:
    """The package's modules that a file imports: all of them, or those that importing the file brings in."""
    for node in _statements(ast.parse(path.read_text(encoding="utf-8")), at_import):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == ROOT)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == ROOT:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else str(node.module)


def _statements(tree: ast.AST, at_import: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        is_late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        )
        if not (at_import and is_late):
            yield node
            yield from _statements(node, at_import)


def place(module: str) -> tuple[int, str]:
    """The number of a module's row and its name there: the longest that is its own or that of a folder around it."""
    inside = module.removeprefix(f"{ROOT}.")
    fits = [(len(name), row, name) for row, names in enumerate(LAYERS) for name in names if _is_in(inside, name)]
    return max(fits)[1:] if fits else (-1, "")


def is_allowed(module: str, target: str) -> bool:
    """Whether one module may import another: downwards, and inside its own folder."""
    (row, name), (below, other) = place(module), place(target)
    return below < row or name == other or (name in FOUNDATION and other in FOUNDATION)


def _is_in(inside: str, name: str) -> bool:
    return inside == name or inside.startswith(f"{name}.")


def test_every_module_has_a_layer() -> None:
    """A new module says where it belongs."""
    assert [module for module in modules() if module != ROOT and place(module)[0] < 0] == []


def test_the_top_holds_the_public_front_alone() -> None:
    """A new subject gets a folder."""
    assert sorted(path.name for path in PACKAGE.glob("*.py")) == [
        "__init__.py",
        "adapter.py",
        "errors.py",
        "testing.py",
    ]


def test_imports_point_down() -> None:
    """No module imports from a folder above its own or next to it, not even late or only for types."""
    known = modules()
    edges = [
        f"{module} -> {target}"
        for module, path in known.items()
        if module != ROOT
        for target in imports(path, known, at_import=False)
        if target != ROOT and not is_allowed(module, target)
    ]
    assert edges == []


def test_nothing_imports_the_root() -> None:
    """A name comes from the module that defines it; importing the root is how packages get their cycles."""
    known = modules()
    roots = [module for module, path in known.items() if ROOT in imports(path, known, at_import=False)]
    assert roots == []


def test_prefetching_and_caching_do_not_know_each_other() -> None:
    """Each sees the other through a protocol of its own; only the package's old name for the prefetcher is kept."""
    known = modules()
    towards = {module: set(imports(path, known, at_import=False)) for module, path in known.items()}
    cache = [module for module in known if place(module)[1] == "cache" and module != f"{ROOT}.cache"]
    prefetch = [module for module in known if place(module)[1] == "prefetch"]
    assert [module for module in cache if towards[module] & {*prefetch}] == []
    assert [module for module in prefetch if towards[module] & {*cache, f"{ROOT}.cache"}] == []


def test_there_is_no_ring() -> None:
    """What is imported when a module is imported never leads back to it."""
    known = modules()
    graph = {module: set(imports(path, known, at_import=True)) - {module} for module, path in known.items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as exc:
        pytest.fail(f"a ring of imports: {' -> '.join(reversed(exc.args[1]))}")
    assert len(order) == len(known)


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import streaming", {"torch", "numpy", "pydantic", "obstore", "aiohttp"}),
        ("import streaming; dir(streaming)", {"torch", "numpy", "pydantic", "obstore", "aiohttp"}),
        ("import streaming.cli.app", {"torch", "numpy", "pydantic", "obstore", "aiohttp"}),
        ("import streaming.sources", {"torch", "obstore", "aiohttp"}),
        ("import streaming.core.adapter_config", {"torch", "numpy", "obstore", "aiohttp"}),
        ("import streaming.index", {"torch", "obstore", "aiohttp"}),
    ],
)
def test_importing_brings_in_nothing_heavy(statement: str, unwanted: set[str]) -> None:
    """The root costs no torch, numpy, pydantic or client library, and no module costs what only others need."""
    code = f"{statement}; import sys; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert unwanted & set(done.stdout.split()) == set()
