"""The documents agree with the code: their blocks run, their links resolve, their lists are complete."""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

from streaming import errors
from streaming.adapter import StreamingDatasetAdapter
from streaming.cli.app import app
from streaming.core.adapter_config import AdapterConfig
from streaming.core.source_config import DataSourceConfig

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
GUIDE = REPOSITORY / "INTEGRATION_GUIDE.md"
REFERENCE = REPOSITORY / "docs" / "reference"
SECURITY = REPOSITORY / "SECURITY.md"
CONTRIBUTING = REPOSITORY / "CONTRIBUTING.md"
DOCUMENTS = [README, GUIDE, SECURITY, CONTRIBUTING, *sorted((REPOSITORY / "docs").rglob("*.md"))]


def name_of(document: Path) -> str:
    return str(document.relative_to(REPOSITORY))


@dataclass(frozen=True)
class Block:
    """One fenced block of a document."""

    document: Path
    line: int
    language: str
    text: str


def blocks(document: Path) -> list[Block]:
    pattern = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    text = document.read_text()
    return [
        Block(document, text.count("\n", 0, match.start()) + 1, match[1], match[2]) for match in pattern.finditer(text)
    ]


PYTHON_BLOCKS = [block for document in DOCUMENTS for block in blocks(document) if block.language == "python"]


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(arguments, cwd=folder, env=environment, text=True, capture_output=True, timeout=240)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the data set for the guide's blocks with `examples/make_latents.py`."""
    folder = tmp_path_factory.mktemp("guide")
    done = run([sys.executable, str(REPOSITORY / "examples" / "make_latents.py"), "data"], folder)
    assert done.returncode == 0, done.stderr
    return folder / "data"


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=lambda block: f"{name_of(block.document)}:{block.line}")
def test_a_python_block_runs_as_it_stands(block: Block, data: Path, tmp_path: Path) -> None:
    """Each Python block is a complete script: it runs in a folder that has `data/`, without output on stderr."""
    shutil.copytree(data, tmp_path / "data")
    script = tmp_path / "block.py"
    script.write_text(block.text)
    done = run([sys.executable, script.name], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_readme_and_the_guide_hold_python() -> None:
    """Both documents have Python blocks, so the test above has something to run."""
    assert {README, GUIDE} <= {block.document for block in PYTHON_BLOCKS}


def test_the_readme_is_short() -> None:
    """The README has fewer than 150 lines, and one block of about thirty."""
    assert len(README.read_text().splitlines()) < 150
    lengths = [block.text.count("\n") for block in PYTHON_BLOCKS if block.document == README]
    assert max(lengths) <= 40


def test_commands_in_the_documents_are_targets_of_the_makefile() -> None:
    """Every `make NAME` in a document exists, and the README has the two main ones."""
    targets = set(re.findall(r"^([a-z][\w-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        code = "\n".join(re.findall(r"`(?!``)([^`\n]+)`", document.read_text()))
        code += "\n" + "\n".join(block.text for block in blocks(document) if block.language != "python")
        named = set(re.findall(r"(?:^|\s)make ([a-z][\w-]*)", code, re.MULTILINE))
        assert named <= targets, name_of(document)
        if document == README:
            assert {"demo", "test"} <= named


def anchors(document: Path) -> set[str]:
    """Return the fragments of the headings of a document, as GitHub generates them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_resolve(document: Path) -> None:
    """A link to a file of the repository leads to one, and its fragment to a heading there."""
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if link.startswith(("https://", "http://")):
            continue
        path, _, fragment = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if fragment:
            assert fragment in anchors(target), link


def test_every_document_can_be_reached_from_the_readme() -> None:
    """Following links from the README leads to each document under docs/."""
    seen: set[Path] = set()
    waiting = [README]
    while waiting:
        document = waiting.pop()
        seen.add(document)
        links = re.findall(r"\]\(([^)\s#]+\.md)", document.read_text())
        targets = {(document.parent / link).resolve() for link in links if "://" not in link}
        waiting.extend(targets - seen)
    assert set(DOCUMENTS) <= seen


def test_the_tree_in_the_readme_exists() -> None:
    """Each path in the annotated tree exists."""
    [tree] = [block.text for block in blocks(README) if "streaming/" in block.text and block.language == "text"]
    folder = ""
    for line in tree.splitlines():
        indent, words = re.match(r"( *)((?:\S+ )*\S+)(?:  |$)", line).groups()  # type: ignore[union-attr]
        for word in words.split():
            assert (REPOSITORY / (folder if indent else "") / word).exists(), line
        if not indent:
            folder = words.split()[-1]


def test_the_files_that_a_contributor_touches_exist() -> None:
    """Each path in CONTRIBUTING.md is a file or folder; `NAME` stands for the new one."""
    words = re.findall(r"`([\w.*-]+/[\w./*-]*)`", CONTRIBUTING.read_text())
    paths = [word for word in words if "NAME" not in word]
    assert len(paths) > 20
    assert [path for path in paths if not any(REPOSITORY.glob(path.removesuffix("/")))] == []


def rows(document: Path) -> set[str]:
    """Return the names at the beginning of the table rows of a document."""
    return set(re.findall(r"^\| `([^`]+)` \|", document.read_text(), re.MULTILINE))


def test_the_guide_lists_every_option_of_the_adapter() -> None:
    """Each parameter of `StreamingDatasetAdapter` has a row in a table of the guide."""
    assert set(inspect.signature(StreamingDatasetAdapter).parameters) - {"self"} <= rows(GUIDE)


@pytest.mark.parametrize("model", [DataSourceConfig, AdapterConfig])
def test_the_guide_lists_every_field_of_the_configuration(model: Any) -> None:
    """Each field of a configuration has a row in a table of the guide."""
    assert set(model.model_fields) <= rows(GUIDE)


def test_the_guide_lists_every_statistic(data: Path) -> None:
    """Each key of `get_cache_stats()` has a row in a table of the guide."""
    with StreamingDatasetAdapter(str(data), ["latents", "conditions"]) as dataset:
        assert set(dataset.get_cache_stats()) <= rows(GUIDE)


@pytest.mark.parametrize("document", [GUIDE, REFERENCE / "errors.md"], ids=name_of)
def test_every_error_is_explained(document: Path) -> None:
    """Each error class has a row in the guide (cause and step) and in the reference (meaning)."""
    assert set(errors.__all__) <= rows(document)


def test_the_error_tree_in_the_reference_is_the_one_in_the_code() -> None:
    """The reference shows the tree that the docstring of `streaming.errors` draws."""
    drawn = [line.strip() for line in (errors.__doc__ or "").splitlines() if re.search(r"[├└]──", line)]
    shown = [line.strip() for line in (REFERENCE / "errors.md").read_text().splitlines() if re.search(r"[├└]──", line)]
    assert drawn
    assert shown == drawn


def words_of(parameter: Any) -> set[str]:
    """Return the name of a parameter as the reference has it: its long option, or the metavar of an argument."""
    options = {option for option in parameter.opts if option.startswith("--")}
    return options or {parameter.metavar or parameter.name.upper()}


def test_the_cli_reference_has_every_command_and_option() -> None:
    """Each command has a section, and its rows are exactly its options and arguments."""
    text = (REFERENCE / "cli.md").read_text()
    sections = dict(re.findall(r"^## streaming ([\w-]+)$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(sections) == set(commands)
    for name, command in commands.items():
        wanted = set().union(*(words_of(parameter) for parameter in command.params)) - {"--help"}
        rows = re.findall(r"^\| (.*?) \|", sections[name], re.MULTILINE)
        shown = set(re.findall(r"`(--[\w-]+|[A-Z.]+)`", " ".join(rows)))
        assert shown == wanted, name


def test_the_guide_shows_the_lines_of_the_example_trainer() -> None:
    """The added lines of the guide's diff are the two changed lines of examples/trainer.py."""
    [diff] = [block.text for block in blocks(GUIDE) if block.language == "diff"]
    added = {line[1:].strip() for line in diff.splitlines() if line.startswith("+")}
    trainer = (REPOSITORY / "examples" / "trainer.py").read_text().splitlines()
    assert added == {line.split("  # changed line")[0].strip() for line in trainer if "# changed line" in line}


def test_the_hit_rates_in_the_text_follow_their_formula() -> None:
    """The table of predicted hit rates has the values of LRU's formula."""
    text = (REPOSITORY / "docs" / "explanation" / "cache-policy.md").read_text()
    table = re.findall(r"^\| (\d+) % \| (\d+) % \| (\d+) % \|$", text, re.MULTILINE)
    assert len(table) >= 5
    for share, lru, retain in table:
        c = int(share) / 100
        assert round(100 * (c + (1 - c) * math.log(1 - c))) == int(lru)
        assert int(retain) == int(share)


def test_the_measured_table_is_the_one_the_results_give() -> None:
    """Every figure in the README comes from benchmarks/results, through `benchmarks/readme_table.py`."""
    done = run([sys.executable, str(REPOSITORY / "benchmarks" / "readme_table.py")], REPOSITORY)
    assert done.returncode == 0, done.stderr
    [shown] = re.findall(r"<!-- table -->\n(.*?)<!-- end of table -->", README.read_text(), re.DOTALL)
    assert shown == done.stdout


README_TABLE = runpy.run_path(str(REPOSITORY / "benchmarks" / "readme_table.py"))


def test_a_row_shows_the_saved_figure(tmp_path: Path) -> None:
    """A saved result has its rows, with median and range, and the machine on which it was measured."""
    row = README_TABLE["ROWS"][0]
    figures = {row.figure: {"median": 0.914, "min": 0.9, "max": 0.95} for row in README_TABLE["ROWS"]}
    machine = {"cores": 2, "cpu": "some", "system": "Linux 6", "python": "3.11.7"}
    saved = tmp_path / f"{row.benchmark}.json"
    saved.write_text(json.dumps({"figures": figures, "machine": machine}))
    lines = list(README_TABLE["table"](tmp_path))
    assert f"| {row.text} | 0.91x | 0.90x to 0.95x | `{row.benchmark}.py` |" in lines
    assert all(f"`{row.benchmark}.py`" in line for line in lines if line.startswith("| ") and ".py`" in line)
    assert lines[-1] == "Measured on 2 cores (some), Linux 6, Python 3.11.7."


def test_a_renamed_figure_is_not_lost(tmp_path: Path) -> None:
    """A saved result without the figure of a row is an error, and each row names an existing benchmark."""
    row = README_TABLE["ROWS"][0]
    (tmp_path / f"{row.benchmark}.json").write_text(json.dumps({"figures": {}, "machine": {}}))
    with pytest.raises(KeyError, match=re.escape(row.figure)):
        list(README_TABLE["table"](tmp_path))
    for row in README_TABLE["ROWS"]:
        assert (REPOSITORY / "benchmarks" / f"{row.benchmark}.py").exists(), row
