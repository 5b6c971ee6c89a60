"""The prose of the repository is plain English: it uses the words of the field, and each docstring stands alone.

Prose is all of a Markdown file, a YAML file, a shell script or the Makefile, and of a Python file its docstrings,
comments, strings and the names of its functions and classes. Text in backquotes is code and is not checked.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("streaming", "tests", "benchmarks", "examples", "dashboards", "deploy", "docs", ".ci")
TOP = "the top folder"
SUFFIXES = {".py", ".md", ".yml", ".yaml", ".sh"}
NAMES = {"Makefile", "Dockerfile", "run"}

PLAIN_WORDS = {
    r"amid": "among, during",
    r"amongst": "among",
    r"anew": "again",
    r"beside": "next to, besides, vs.",
    r"come(?:s|) to\b(?! (?:an end|rest))": "is, reaches",
    r"copy that answers": "replica that answers",
    r"for ever": "forever",
    r"go(?:es|ing|) on": "continue",
    r"half-way": "halfway",
    r"hence": "so",
    r"h(?:o|e)ld(?:s|ing|) up": "block, delay",
    r"(?:is|are|was|were|be|been|being) asked": "is read, is queried, is requested",
    r"(?<!twice )(?<!times )(?<!not )(?:as|so) long as": "while, if",
    r"lately": "recently",
    r"lest": "so that ... not",
    r"lie|lies": "is, is located",
    r"nobody": "no one, or the passive",
    r"shall": "must, should, will",
    r"so many": "that many, up to N",
    r"suffices?": "is enough",
    r"takes? the place of": "replace",
    r"tells|told": "says, reports, is given",
    r"there(?:by|in|of|upon)": "by this, in it, of it",
    r"upon": "on",
    r"whilst": "while",
    r"whoever|whom": "who, anyone who",
    r"wherever": "where",
    r"by (?:itself|themselves)": "on its own, automatically",
    r"(?<!\bthere )(?:is|are|was|were) (?-i:none)": "is not a ..., was not found",
    r"(?<!\bthere )(?:is|are|was|were) no (?!more\b|less\b|worse\b|different\b|\w+er\b)": "is not a ...",
    r"(?:none|what|that|which) (?:is|are|was|were)(?: not|) there": "exists, is missing, was not found",
}
"""The word or phrase to write in place of the one that the expression matches."""

FRAGMENTS = r"(?:Of|As|Those|That|What|Which|Who|Whose|By)\b(?![^.]*\?)"
"""First words of a docstring that begins in the middle of a sentence; a question is a whole one."""

FRAGMENTS_OF_TESTS = r"(?:Of|Those|That of|As it|And|But)\b"
"""The same for the docstring of a test, which is a whole sentence and so may begin with a clause."""

AVOIDED = re.compile(
    "|".join(rf"(?P<_{i}>\b(?:{words})\b)".replace(" ", r"[ \n]") for i, words in enumerate(PLAIN_WORDS)), re.IGNORECASE
)
ADVICE = {f"_{i}": advice for i, advice in enumerate(PLAIN_WORDS.values())}

EXCLUDED = {"tests/test_language.py", "examples/data/THIRD_PARTY.md"}
"""This list of words, and the texts of licences."""

ALLOWED: set[tuple[str, str]] = set()
"""File and words of the uses that have no plainer form."""


@dataclass(frozen=True)
class Prose:
    """A piece of text, and the line of its file on which it begins."""

    line: int
    text: str


def offences(name: str, text: str) -> Iterator[str]:
    """Yield a sentence for each offence in a file: where it is, the words, and what to write."""
    if not name.endswith(".py"):
        yield from avoided(name, Prose(1, text))
        return
    nodes = list(ast.walk(ast.parse(text)))
    for prose in (*comments(text), *strings(nodes), *names(nodes)):
        yield from avoided(name, prose)
    for start, pattern in docstrings(nodes):
        if match := re.match(pattern, start.text):
            yield f"{name}:{start.line}: a docstring begins with '{match[0]}': begin with a verb or a noun phrase"


def avoided(name: str, prose: Prose) -> Iterator[str]:
    """Yield a sentence for each word or phrase that has a plainer one."""
    without_code = re.sub(r"`[^`\n]+`", "`", prose.text)
    text = re.sub(r"[ \t]*\n[ \t#>]*", "\n", without_code)
    for match in AVOIDED.finditer(text):
        words = match[0].replace("\n", " ")
        if (name, words) not in ALLOWED:
            line = prose.line + text.count("\n", 0, match.start())
            yield f"{name}:{line}: '{words}': write {ADVICE[str(match.lastgroup)]}"


def comments(source: str) -> Iterator[Prose]:
    """Yield each comment; lines that follow each other are one, so that a phrase may wrap."""
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            if line != last + 1:
                yield Prose(first, "\n".join(block))
                block, first = [], line
            block.append(token.string)
            last = line
    yield Prose(first, "\n".join(block))


def strings(nodes: list[ast.AST]) -> Iterator[Prose]:
    """Yield each string of several words: docstrings, messages, help texts."""
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield Prose(node.lineno, node.value)


def names(nodes: list[ast.AST]) -> Iterator[Prose]:
    """Yield the name of each function and class as words."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield Prose(node.lineno, node.name.strip("_").replace("_", " "))


def docstrings(nodes: list[ast.AST]) -> Iterator[tuple[Prose, str]]:
    """Yield each docstring, also of a module's or class's attribute, and the beginnings that it may not have."""
    for node in nodes:
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        is_test = getattr(node, "name", "").startswith("test_")
        for statement in node.body:
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield Prose(statement.lineno, text), FRAGMENTS_OF_TESTS if is_test else FRAGMENTS


def files(folder: str) -> list[Path]:
    """List the files with prose in one of the folders, or directly in the top folder."""
    found = REPOSITORY.glob("*") if folder == TOP else (REPOSITORY / folder).rglob("*")
    return sorted(path for path in found if path.suffix in SUFFIXES or path.name in NAMES)


@pytest.mark.parametrize("folder", [TOP, *FOLDERS])
def test_the_prose_is_plain(folder: str) -> None:
    """Each line that is printed names a file, the words, and the plain ones."""
    found = [
        offence
        for path in files(folder)
        if (name := path.relative_to(REPOSITORY).as_posix()) not in EXCLUDED
        for offence in offences(name, path.read_text(encoding="utf-8"))
    ]
    assert not found, f"{len(found)} offences\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", '"""One line.\n\nIt goes\non.\n"""\n'),
        ("a.py", "\n\nx = 1  # nobody reads it\n"),
        ("a.py", "\n\nraise ValueError(f'{x} is no list')\n"),
        ("a.py", "\n\ndef test_begins_anew(): ...\n"),
        ("a.py", "\n\n# This is no\n# list.\n"),
        ("a.py", '\n\ndef f():\n    """Of the order."""\n'),
        ("a.py", '\n\nx: int\n"""What it is."""\n'),
        ("a.md", "A title\n\n> It is\n> told later.\n"),
        ("a.sh", "\n\n# It is told.\n"),
    ],
)
def test_an_offence_is_found(name: str, text: str) -> None:
    """A planted word is found on its line in every kind of prose, also where a line breaks."""
    [found] = offences(name, text)
    assert re.match(rf"{re.escape(name)}:[34]: ", found)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", "x = told(nobody)\n"),
        ("a.py", '"""Whether there is no `nobody`."""\n'),
        ("a.py", 'def test_it():\n    """What is read is counted."""\n'),
        ("a.py", '"""What does it cost?"""\n'),
        ("a.md", "It implies.\n"),
        ("a.md", "It is no longer in `anew`, and no more than that.\n"),
    ],
)
def test_plain_prose_and_code_pass(name: str, text: str) -> None:
    """Identifiers other than the names of functions, text in backquotes and usual phrases are not found."""
    assert list(offences(name, text)) == []
