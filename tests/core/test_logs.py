"""The log: one form for all lines, all of them documented, and none with a secret."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.adapter import StreamingDatasetAdapter
from streaming.core import logs
from streaming.core.source_config import parse_source
from streaming.errors import AccessDenied, ConfigError, SourceError
from streaming.index import SampleIndex
from streaming.monitoring.metrics import write_textfile
from streaming.sources import create_data_source
from streaming.testing import MemorySource

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "streaming"
LEVELS = ("debug", "info", "warning", "error")
TEMPLATE = re.compile(r"[a-z][a-z0-9_]*(?: [a-z][a-z0-9_]*=(?:%s|%d|%(?:\.\d)?[fg]|[a-z_]+|\"[^\"]+\"))*")


class Call(NamedTuple):
    """A call of a logger in the source."""

    where: str
    level: str
    message: str
    arguments: int


def logger_calls(path: Path) -> Iterator[Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        target, method = node.func.value, node.func.attr
        is_logger = ast.unparse(target) in ("logger", "_log", "get_logger(__name__)", "logging")
        if is_logger and method in (*LEVELS, "log", "exception", "critical"):
            first = node.args[1 if method == "log" else 0]
            assert isinstance(first, ast.Constant), f"{path}:{node.lineno}: the message is not a constant"
            level = ast.unparse(node.args[0]) if method == "log" else method
            arguments = len(node.args) - (2 if method == "log" else 1)
            yield Call(f"{path.name}:{node.lineno}", level, str(first.value), arguments)


CALLS = [call for path in sorted(PACKAGE.rglob("*.py")) for call in logger_calls(path)]


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Everything the library logs at DEBUG, as `configure` writes it; afterwards it logs as before."""
    logger = logging.getLogger("streaming")
    level = logger.level
    stream = io.StringIO()
    handler = logs.configure("DEBUG", stream=stream)
    yield stream
    for each in [handler, *logger.handlers]:
        logger.removeHandler(each)
    logger.propagate = True
    logger.setLevel(level)


class Tracker(logging.Handler):
    """Keeps records as an error tracker would: with all that is on them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def tracker() -> Iterator[Tracker]:
    """A handler of the root logger at DEBUG of everything, the client libraries' own logs too."""
    handler, root = Tracker(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    logging.getLogger("streaming").setLevel(logging.DEBUG)
    yield handler
    logging.getLogger("streaming").setLevel(logging.NOTSET)
    root.setLevel(level)
    root.removeHandler(handler)


# -- one form


def test_every_message_has_the_form() -> None:
    """An event in snake case, then pairs; a value that may hold anything is `%s`, which the logger quotes."""
    assert CALLS
    assert [call for call in CALLS if not TEMPLATE.fullmatch(call.message)] == []
    assert [call for call in CALLS if len(re.findall(r"=%", call.message)) != call.arguments] == []


def test_every_logger_masks() -> None:
    """No module takes a logger that lets secrets through, except to look at levels."""
    found = [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"getLogger\(__name__\)|= *logging\.getLogger", line) and path.name != "logs.py"
    ]
    assert found == []


def test_the_reference_lists_every_event() -> None:
    """Each row has the levels and the keys in order, and no row names an unknown event."""
    rows = re.findall(
        r"^\| `(\w+)` \| ([A-Z, ]+) \| ((?:`\w+` ?)*)\| \S", (REPOSITORY / "docs/reference/logs.md").read_text(), re.M
    )
    documented = {event: (levels, re.findall(r"\w+", keys)) for event, levels, keys in rows}
    assert list(documented) == sorted(documented)
    expected: dict[str, tuple[str, list[str]]] = {}
    for call in CALLS:
        event = call.message.split()[0]
        levels = "INFO, WARNING" if call.level == "level" else call.level.upper()
        keys = re.findall(r"(\w+)=", re.sub(r'"[^"]*"', "", call.message))
        assert expected.setdefault(event, (levels, keys)) == (levels, keys), call
    assert documented == expected


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.where)
@pytest.mark.parametrize("text", ["plain", "with spaces", 'a "quote" = b\nnext', "", "12", "None", "ü\u2028\udc80"])
def test_every_line_is_read_back(call: Call, text: str, lines: io.StringIO) -> None:
    """Whatever the values hold, a line stays one line and gives its pairs back."""
    kinds = re.findall(r"=%(?:\.\d)?(\w)", call.message)
    values = [text if kind == "s" else 3 for kind in kinds]
    logs.get_logger("streaming.tests.form").warning(call.message, *values)
    [line] = lines.getvalue().split("\n")[:-1]
    pairs = logs.parse(line)
    assert list(pairs)[:4] == ["time", "level", "logger", "event"]
    assert pairs["event"] == call.message.split()[0]
    given_keys = re.findall(r"(\w+)=%", call.message)
    assert [pairs[key] for key in given_keys] == values


@given(st.lists(st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False)), max_size=5))
def test_values_keep_their_type(values: list[Any]) -> None:
    """Text that looks like a number is text again; numbers, booleans and None are what they were."""
    handler, logger = Tracker(), logs.get_logger("streaming.tests.types")
    logger.addHandler(handler)
    message = " ".join(["an_event", *(f"k{number}=%s" for number in range(len(values)))])
    logger.warning(message, *values)
    logger.removeHandler(handler)
    read = logs.parse(handler.records[0].getMessage())
    for number, value in enumerate(values):
        expected = str(value) if value in (float("inf"), float("-inf")) else value
        assert (read[f"k{number}"], type(read[f"k{number}"])) == (expected, type(expected))


def test_a_record_carries_its_pairs(tracker: Tracker) -> None:
    """Any handler finds the event and its values in `fields`, masked, with numbers as the message shows them."""
    logs.get_logger("streaming.tests.fields").error("an_event a=%s b=%.1f c=fixed token=%s", "x y", 2.04, "hunter2")
    [record] = tracker.records
    fields = {"event": "an_event", "a": "x y", "b": 2.0, "c": "fixed", "token": "***"}
    assert record.__dict__["fields"] == logs.parse(record.getMessage()) == fields


def test_arguments_that_do_not_fit_lose_no_record(tracker: Tracker) -> None:
    """They are shown next to the message, masked too."""
    logs.get_logger("streaming.tests.odd").error("an_event a=%s", "x", "token=hunter2")
    assert tracker.records[0].getMessage() == "an_event a=%s ('x', 'token=***')"


@pytest.mark.parametrize("line", ["", "event loose words", "a=b", 'event key="open', 'event a="b"c', "=1"])
def test_a_line_that_is_not_of_the_log_is_refused(line: str) -> None:
    """The error quotes the line."""
    with pytest.raises(ConfigError, match="is not a line of the log"):
        logs.parse(line)


# -- configure


def test_lines_of_json(lines: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is an object with the time of the record in UTC, the level, the logger, the rank, and the pairs."""
    monkeypatch.setenv("RANK", "3")
    stream = io.StringIO()
    logs.configure("info", json=True, stream=stream)
    record = logging.makeLogRecord(
        {"name": "streaming.x", "levelno": 30, "levelname": "WARNING", "msg": "it_is a=%s b=%.1f", "args": ("x y", 2.0)}
    )
    record.created = 0.25
    logging.getLogger("streaming").handle(record)
    logs.get_logger("streaming.tests.json").debug("not_shown")
    assert json.loads(stream.getvalue()) == {
        "time": "1970-01-01T00:00:00.250+00:00",
        "level": "warning",
        "logger": "streaming.x",
        "rank": "3",
        "event": "it_is",
        "a": "x y",
        "b": 2.0,
    }
    assert lines.getvalue() == ""


def test_a_traceback_is_part_of_its_line(lines: io.StringIO) -> None:
    """Also of a message of the program's own below the library's logger, which is masked as well."""
    try:
        raise ValueError("token=hunter2")
    except ValueError:
        logging.getLogger("streaming.tests.own").exception("It failed: really, %s", "token=hunter2")
    pairs = logs.parse(lines.getvalue())
    assert (pairs["event"], pairs["text"]) == ("message", "It failed: really, token=***")
    assert pairs["exception"].startswith("Traceback (most recent call last):\n")
    assert pairs["exception"].endswith("ValueError: token=***")


@pytest.mark.parametrize("level", ["LOUD", None, 1.5])
def test_an_unknown_level_is_refused(level: Any) -> None:
    """With the levels that there are."""
    with pytest.raises(ConfigError, match="give DEBUG, INFO"):
        logs.configure(level)


def test_a_program_without_handlers_sees_warnings_alone() -> None:
    """They go to stderr by Python's last resort, without secrets; where a program sets up logging it has its way."""
    code = (
        "from streaming.core.logs import get_logger; logger = get_logger('streaming.tests'); logger.info('too_much'); "
        "logger.warning('an_event url=%s', 'https://me:hunter2hunter2@host/')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "an_event url=https://***@host/\n")


def test_the_library_adds_no_handler() -> None:
    """Where lines go is up to the program; a logger has one filter, however often it is requested."""
    assert logging.getLogger("streaming").handlers == []
    logger = logs.get_logger("streaming.tests.once")
    assert logs.get_logger("streaming.tests.once").filters == logger.filters
    assert (logger.handlers, len(logger.filters)) == ([], 1)


def test_a_disabled_level_touches_nothing() -> None:
    """Neither the message nor an argument is looked at."""

    class Untouchable:
        def __str__(self) -> str:
            raise AssertionError("formatted")

        __repr__ = __str__

    logger = logs.get_logger("streaming.tests.disabled")
    logger.setLevel(logging.WARNING)
    logger.debug("an_event key=%s", Untouchable())


# -- no secrets

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCY"


def shown(record: logging.LogRecord) -> str:
    """All that a handler can find on a record."""
    return f"{record.__dict__}{record.getMessage()}{logging.Formatter().format(record)}"


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (f"an_event url=https://u:{SECRET}@h/", ()),
        ("an_event token=%s", (SECRET,)),
        ("an_event headers=%s", ({"Authorization": f"Bearer {SECRET}", "deep": [{"password": SECRET}]},)),
        ("an_event error=%s attempt=%d", (SourceError(f"https://h/?X-Amz-Signature={SECRET}"), 2)),
        ("an_event password=%(password)s key=%(key)d", ({"password": SECRET, "key": 1},)),
        ("an_event body=%s", (f'{{"secret": "{SECRET}"}}'.encode(),)),
    ],
)
def test_messages_and_arguments_are_masked(message: str, arguments: tuple[Any, ...], tracker: Tracker) -> None:
    """For any handler: in the message, in each argument, and where the message names what an argument is."""
    logs.get_logger("streaming.tests.masked").error(message, *arguments)
    [record] = tracker.records
    assert SECRET not in shown(record)
    assert "***" in record.getMessage()


def test_the_chain_of_an_error_is_masked(tracker: Tracker) -> None:
    """Cause, context, notes and groups are in the text of the traceback; the errors themselves are not handed on."""

    def fail() -> None:
        try:
            try:
                raise KeyError(f"Cookie: a={SECRET}")
            except KeyError:
                raise ValueError(f"secret_key='{SECRET}'")  # noqa: B904  the context is the point
        except ValueError as exc:
            error = AccessDenied("refused")
            error.add_note(f"Authorization: Basic {SECRET}")
            raise ExceptionGroup(f"https://h/?sig={SECRET}", [error]) from exc

    logger = logs.get_logger("streaming.tests.chain")
    try:
        fail()
    except ExceptionGroup as exc:
        logger.exception("read_failed error=%s", exc)
        logger.error("read_failed", exc_info=exc, stack_info=True)
    for record in tracker.records:
        text = shown(record)
        assert SECRET not in text
        assert record.exc_info is None
        for part in ("KeyError", "ValueError", "AccessDenied: refused", "Authorization: ***"):
            assert part in str(record.exc_text)
    assert tracker.records[0].getMessage() == 'read_failed error="ExceptionGroup: https://h/?sig=*** (1 sub-exception)"'


class Echo(BaseHTTPRequestHandler):
    """Refuses, and repeats the whole request in its answer, and a secret without a name."""

    def do_GET(self) -> None:
        status = 500 if "500" in self.path else 403
        body = f"<Error><Token-0>{PLANTED['key']}</Token-0>{self.path} {dict(self.headers)} {PLANTED['token']}</Error>"
        self.send_response(status, f"No {PLANTED['token']}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Seen", PLANTED["token"])
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None:
        """Say nothing."""


PLANTED = {
    "userinfo": "planted0userinfo0Kx8",
    "query": "planted0query0Kx8",
    "header": "planted0header0Kx8",
    "token": "planted0token0Kx8",
    "key": "planted0s3key0Kx8",
}


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a server that refuses and repeats."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as http:
        thread = Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def settings_of(server: str) -> list[dict[str, Any]]:
    web = {"type": "http", "storage_options": {"headers": {"X-Api-Key": PLANTED["header"]}, "urls": ["a.bin"]}}
    s3 = {"access_key_id": "plant", "secret_access_key": PLANTED["key"], "token": PLANTED["token"]}
    return [
        {
            **web,
            "name": f"web{status}-{engine}",
            "engine": engine,
            "path": f"http://{server}/{status}/",
            "credentials": {"token": PLANTED["token"]},
        }
        for status in (403, 500)
        for engine in ("obstore", "aiohttp")
    ] + [
        {
            **web,
            "name": "signed",
            "path": f"http://me:{PLANTED['userinfo']}@{server}/403/?X-Amz-Signature={PLANTED['query']}",
        },
        {
            "type": "s3",
            "name": "s3",
            "path": "s3://bucket/403",
            "credentials": s3,
            "storage_options": {"endpoint_url": f"http://{server}"},
        },
    ]


async def test_no_planted_secret_comes_out_of_a_failing_source(
    server: str, lines: io.StringIO, tracker: Tracker, tmp_path: Path
) -> None:
    """Not in a record, a traceback, a line, an error, a source, its settings, nor a saved index."""
    logging.getLogger("streaming").propagate = True
    logger = logs.get_logger("streaming.tests.sources")
    found: list[str] = []
    for settings in settings_of(server):
        config = parse_source(settings)
        async with create_data_source(config) as source:
            with pytest.raises(SourceError) as caught:
                await source.read("a.bin")
            error = caught.value
            chain = "".join(traceback.format_exception(error))
            logger.error("read_failed error=%s", error, exc_info=error)
            logger.error("read_failed error=%s config=%s text=%s", error.__cause__, config, chain)
            found += [str(error), repr(error), str(error.args), repr(source), repr(config), str(config)]
        objects = MemorySource(config, {"a.bin": b"1"})
        index = await SampleIndex.build([objects])
        index.save(tmp_path / "saved.index")
        found += [(tmp_path / "saved.index").read_bytes().decode("latin-1"), repr(index), repr(objects)]
    ours = [record for record in tracker.records if record.name.startswith("streaming")]
    assert len(ours) == 2 * len(settings_of(server))
    found += [*map(shown, ours), lines.getvalue()]
    assert "PermissionDenied" in lines.getvalue()  # the chain with the client's own error is there
    for line in lines.getvalue().splitlines():
        assert logs.parse(line)["event"] == "read_failed"
    for secret in PLANTED.values():
        assert [text for text in found if secret in text] == []


def test_no_planted_secret_comes_out_of_an_adapter(server: str, lines: io.StringIO, tmp_path: Path) -> None:
    """Not in its log, its errors, its statistics or its metrics."""
    found: list[str] = []
    for settings in settings_of(server)[:5]:
        with StreamingDatasetAdapter(
            [settings],
            resilience={"deadline_s": 1.0, "backoff_base_s": 0.001, "backoff_max_s": 0.002},
        ) as adapter:
            with pytest.raises(SourceError) as caught:
                adapter[0]
            write_textfile(tmp_path / "metrics.prom")
            found += [str(caught.value), repr(caught.value), repr(adapter), str(adapter.get_cache_stats())]
            found += [(tmp_path / "metrics.prom").read_text(), str(adapter.metrics_snapshot())]
    found.append(lines.getvalue())
    events = {logs.parse(line)["event"] for line in lines.getvalue().splitlines()}
    assert {"read_retry", "read_failed", "circuit_breaker_opened"} <= events
    for secret in PLANTED.values():
        assert [text for text in found if secret in text] == []
