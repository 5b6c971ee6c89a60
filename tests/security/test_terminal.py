"""Names, labels and messages of others neither control the operator's terminal nor forge a row."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from streaming.cli.app import app
from streaming.cli.exit_codes import outcome
from streaming.core import logs
from streaming.core.escaping import escaped, escaped_lines
from streaming.errors import SourceError
from tests.cli.test_doctor_live_and_top import served

# What clears a screen, sets a title, goes back in a line, begins a row, and turns a name around.
HOSTILE = "\x1b[2J\x1b]0;title\x07\b\x7f\x9b31m\u202egnp\u2066\u2028\r\nforged"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
COMMANDS = Path(__file__).parents[2] / "streaming" / "cli"


def run(*arguments: str | Path, code: int = 0) -> Result:
    """Run a command of the program and check its exit code."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def check(text: str) -> None:
    """Assert that text for people has no control character, and no line that begins with text from outside."""
    assert CONTROL.search(text) is None
    assert [line for line in text.splitlines() if line.startswith("forged")] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Objects with such names: samples, one that cannot be decoded, and one that no codec knows."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / f"good{HOSTILE}.json").write_text("1")
    (folder / f"bad{HOSTILE}.json").write_text("{")
    (folder / f"odd.x{HOSTILE}").write_text("?")
    return folder


def test_ls_escapes_names_for_people_alone(folder: Path) -> None:
    """One row for each object; programs get each name as it is."""
    text = run("ls", folder).stdout
    check(text)
    assert len(text.splitlines()) == 3
    assert "\\x1b[2J" in text
    paths = {json.loads(line)["path"] for line in run("ls", folder, "--json").stdout.splitlines()}
    assert paths == {path.name for path in folder.iterdir()}


def test_index_warm_and_doctor_escape_names(folder: Path, tmp_path: Path) -> None:
    """In counts, in failures, in findings, and where copies differ; JSON holds the same text unescaped."""
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"sources": [str(folder)]}))
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / f"more{HOSTILE}.json").write_text("1")
    for arguments, code in (
        (("index", folder), 0),
        (("warm", config), 1),
        (("doctor", folder), 0),
        (("doctor", folder, copy, "--mirrors"), 1),
        (("index", folder, f"{tmp_path}/{HOSTILE}"), 1),
    ):
        result = run(*arguments, code=code)
        check(result.stdout)
        check(result.stderr)
        assert "\\x1b[2J" in result.output
    assert run("warm", config, code=1).stderr.count("\n") == 1


@pytest.mark.parametrize("command", [("doctor", "--live", "--seconds", "0"), ("top", "--once", "--seconds", "0")])
def test_labels_of_metrics_are_text(command: tuple[str, ...]) -> None:
    """In tables and sentences, where they are not rich markup either; JSON has them unchanged."""
    dataset = f"[bold]{HOSTILE}[/nothing]"
    label = dataset.replace("\n", "\\n").replace("\r", "").replace("\u2028", "")  # as the exposition has lines
    labels = f'dataset="{label}",rank="{label}"'
    text = (
        f"streaming_trainer_steps_total{{{labels}}} 100\n"
        f"streaming_trainer_busy_seconds_total{{{labels}}} 5.0\n"
        f'streaming_trainer_wait_seconds_total{{{labels},stage="decode"}} 5.0\n'
    )
    with served(text) as address:
        shown = CliRunner().invoke(app, [*command, address])
        found = CliRunner().invoke(app, [*command, address, "--json"])
    assert shown.exception is None or isinstance(shown.exception, SystemExit)
    check(shown.stdout)
    assert "[bold]\\x1b[2J" in shown.stdout
    assert json.dumps(label.replace("\\n", "\n"))[1:-1] in found.stdout


def test_the_error_of_a_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a server wrote into it."""
    with pytest.raises(typer.Exit), outcome():
        raise SourceError(f"the server said {HOSTILE}")
    text = capsys.readouterr().err
    check(text)
    assert text.count("\n") == 1
    assert text.startswith("streaming: the server said \\x1b[2J")


def test_commands_print_by_one_function() -> None:
    """Which escapes; what else is printed is JSON, an object's bytes, or the demo's own words."""
    found = [
        f"{path.name}: {line.strip()}"
        for path in sorted(COMMANDS.rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(r"typer\.echo\(|click\.echo\(|\bprint\(", line) and path.name != "printing.py"
    ]
    assert [line for line in found if "open_console()" not in line and "console.print(_frame" not in line] == [
        "command.py: typer.echo(_summary(result), err=as_json)"
    ]


# -- logs


@pytest.fixture
def plain() -> Iterator[StringIO]:
    """Output of a program's own log handler."""
    stream, root = StringIO(), logging.getLogger()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)


def fail() -> None:
    """Raise an error with such text in it, in its cause and in its notes."""
    error = SourceError(f"it said {HOSTILE}\nERROR forged")
    error.add_note(f"{HOSTILE}\nERROR forged\n\nTraceback (most recent call last):\n  File\nERROR forged")
    try:
        raise ValueError(f"cause {HOSTILE}\nERROR forged")
    except ValueError as cause:
        raise error from cause


def test_a_log_has_a_row_for_each_event(plain: StringIO) -> None:
    """Neither a value nor an error, its cause or its notes begins another row, or controls a terminal."""
    logger = logs.get_logger("streaming.tests.terminal")
    logger.error("an_event path=%s", HOSTILE)
    logger.error(HOSTILE)
    try:
        fail()
    except SourceError as exc:
        logger.exception("it_failed error=%s", exc)
        logger.exception("it_failed")
    text = plain.getvalue()
    check(text)
    rows = [line for line in text.splitlines() if line.startswith("ERROR")]
    assert len(rows) == 4
    assert "an_event path=" in rows[0]
    assert "ValueError: cause" in text


def test_a_line_of_the_log_gives_the_text_back() -> None:
    """Also with C1 and bidi characters, which no terminal gets."""
    stream = StringIO()
    handler = logs.configure("INFO", stream=stream)
    try:
        logs.get_logger("streaming.tests.terminal").info("an_event path=%s", HOSTILE)
    finally:
        logging.getLogger("streaming").removeHandler(handler)
        logging.getLogger("streaming").propagate = True
    [line] = stream.getvalue().split("\n")[:-1]
    check(line)
    assert logs.parse(line)["path"] == HOSTILE


# -- escaping


@given(st.text(alphabet=st.characters()))
def test_escaped_text_is_one_printable_line(text: str) -> None:
    """Other characters stay as they are."""
    found = escaped(text)
    check(found)
    assert len(found.splitlines()) <= 1
    assert found.encode().decode() == found  # no half pairs are left, which a stream would refuse
    if text.isprintable():
        assert found == text


def test_lines_stay_lines() -> None:
    """Lines after the first are indented."""
    assert escaped_lines("a\x1b\nb") == "a\\x1b\n    b"
