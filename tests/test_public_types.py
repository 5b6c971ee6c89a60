"""Types of the public names, as type checkers see them."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import streaming

REPOSITORY = Path(__file__).parents[1]
USER_CODE = Path(__file__).with_name("public_types.py")

MAY_BE_ANY = {
    # samples
    "AsyncPrefetcher.get: return",
    "DataSource.fetch_file: return",
    "MixedDataset.__getitem__: return",
    "SmartLRUCache.encode: sample",
    "SmartLRUCache.get: return",
    "SmartLRUCache.get_many: default",
    "SmartLRUCache.get_nowait: default",
    "SmartLRUCache.get_nowait: return",
    "SmartLRUCache.put: data",
    "SmartLRUCache.put_nowait: data",
    "StreamingDatasetAdapter.__getitem__: return",
    # settings by name, and what a constructor parses
    "DataSourceConfig.__init__: options",
    "Settings.__init__: values",
    "StreamingDataLoader.__init__: options",
    "StreamingDatasetAdapter.__init__: sources",
    "StreamingDatasetAdapter.from_config: overrides",
    "StreamingSampler.__init__: data_source",
}
SPECIAL = ("__init__", "__call__", "__getitem__", "__getitems__", "__len__", "__iter__", "__enter__")


def test_user_code_passes_mypy() -> None:
    """Strictly, so that a type that becomes `Any` is an error, as is a misuse that is no longer refused."""
    command = [sys.executable, "-m", "mypy", str(USER_CODE)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_user_code_uses_every_public_name() -> None:
    """In the code, not only in the imports."""
    used = {node.id for node in ast.walk(ast.parse(USER_CODE.read_text())) if isinstance(node, ast.Name)}
    assert set(streaming.__all__) - used == set()


def functions(name: str, value: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """A public function; of a class, its methods and properties, and those of its bases in this package."""
    if not isinstance(value, type):
        yield name, value
        return
    ours = [cls for cls in value.__mro__ if cls.__module__.partition(".")[0] in ("streaming", "tests")]
    for cls in ours:
        for member, found in vars(cls).items():
            function = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
            if inspect.isfunction(function) and (member in SPECIAL or not member.startswith("_")):
                yield f"{cls.__name__}.{member}", function


def parts(value: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """The parameters of a function, and what it returns, each with its annotation."""
    signature = inspect.signature(value)
    for parameter in signature.parameters.values():
        if parameter.name not in ("self", "cls"):
            yield parameter.name, parameter.annotation
    yield "return", signature.return_annotation


def loose(name: str, value: Any) -> set[str]:
    """The parameters and returned values of a public name that are `Any` or have no annotation."""
    return {
        f"{function}: {part}"
        for function, found in functions(name, value)
        for part, annotation in parts(found)
        if annotation in (inspect.Signature.empty, "Any", Any)
    }


@pytest.mark.parametrize("name", streaming.__all__)
def test_public_names_are_annotated(name: str) -> None:
    """Only samples and what is passed on may be `Any`."""
    assert loose(name, getattr(streaming, name)) - MAY_BE_ANY == set()


class Loose:
    def one(self, a, b: int):
        return a

    @property
    def two(self) -> Any:
        return None

    @classmethod
    def three(cls, *args: Any) -> None: ...


def test_missing_annotations_are_found() -> None:
    """In methods, properties and class methods."""
    assert loose("Loose", Loose) == {"Loose.one: a", "Loose.one: return", "Loose.two: return", "Loose.three: args"}
