"""The recipes of the integration guide are those of the scripts here, which are killed and resumed."""

from __future__ import annotations

import ast
import re

import pytest

from tests.trainers.jobs import HERE, REPOSITORY

GUIDE = (REPOSITORY / "INTEGRATION_GUIDE.md").read_text()
SCRIPTS = {
    "Data": "lightning_script.py",
    "LoaderState": "transformers_script.py",
    "StreamingTrainer": "transformers_script.py",
}


def methods(text: str, name: str) -> dict[str, str]:
    """Return the methods of a class by name."""
    [found] = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == name]
    return {node.name: ast.unparse(node) for node in found.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_recipe_is_what_was_tested(name: str) -> None:
    """Each method in the guide is that of the script, word for word."""
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    [block] = [block for block in blocks if f"class {name}(" in block]
    shown = methods(block, name)
    assert shown
    assert shown.items() <= methods((HERE / SCRIPTS[name]).read_text(), name).items()
