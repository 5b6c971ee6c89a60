"""No text of a server breaks its parser, and none takes longer than in proportion to its length."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings

from streaming.errors import StreamingError
from tests.security.parsers_http import HONEST, PARSERS, TOKENS, Parser, hostile

EACH = pytest.mark.parametrize("parse", [parse for _, parse in PARSERS], ids=[name for name, _ in PARSERS])


@EACH
def test_garbage_is_taken_or_refused(parse: Parser) -> None:
    """Whatever a server sends, no other error leaves the parser."""

    @given(hostile)
    @hypothesis_settings(max_examples=150, deadline=None)
    def check(data: bytes) -> None:
        _run(parse, data)

    check()


HOSTILE = [
    b"[" * 200_000,
    b'{"a":' * 100_000,
    b"[" + b"9" * 10_000 + b"]",
    b'[{"name": "a", "type": "file", "size": ' + b"9" * 10_000 + b', "mtime": ' + b"9" * 4_000 + b"}]",
    b'[{"name": "a", "type": "file", "size": 1e999, "mtime": "Wed, 21 Oct 2015 07:28:00 +99999999999999999999"}]',
    b"Index of <a href='http://[/x'>x</a> <a href='//\xe2\x84\x80.example/x'>x</a>",
    b"Index of <a href='&#" + b"9" * 10_000 + b"'>x</a>",
    b"Index of <a href='x'>x</a> 21-Nov-2025 03:54 " + b"9" * 10_000,
    b"Index of <a href='http://host.example:" + b"9" * 5_000 + b"/data/x'>x</a>",
    b'["http://[/x"]',
    b"http://[/x\n",
    b"<ListBucketResult><Contents><Key>a</Key><Size>" + b"9" * 10_000 + b"</Size></Contents></ListBucketResult>",
    b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
    b"<?xml version='1.0' encoding='none'?><a/>",
    b"<a>" * 100_000,
    b"bytes 0-9/" + b"9" * 10_000,
    b"9" * 10_000,
    "²".encode(),
    b"Wed, 21 Oct 2015 07:28:00 +99999999999999999999",
    b"Wed, 21 Oct 0000 07:28:00 GMT",
    b'<http://[>; rel="next"',
    b'<ftp://host.example/>; rel="next"',
]


@EACH
@pytest.mark.parametrize("data", HOSTILE, ids=lambda data: repr(data[:30]))
def test_known_garbage_is_taken_or_refused(parse: Parser, data: bytes) -> None:
    """What broke one of them is tried on all."""
    _run(parse, data)


@EACH
def test_work_grows_with_the_length(parse: Parser) -> None:
    """Eight times the input takes about eight times the time, not 64 times; whatever is repeated in it."""
    for token in TOKENS:
        for begin in (b"", b"Index of ", b"[", b"<ListBucketResult>", b'<a href="x">'):
            small, large = (begin + token * (size // len(token)) for size in (12_000, 96_000))
            taken_s = _best_s(parse, large)
            assert taken_s < 0.02 or taken_s < 24 * _best_s(parse, small), (begin, token)


def _best_s(parse: Parser, data: bytes) -> float:
    """Processor time of one call, in seconds; of several, as others run on this machine too."""
    best_s = float("inf")
    for _ in range(3):
        started = time.thread_time()
        _run(parse, data)
        best_s = min(best_s, time.thread_time() - started)
        if best_s < 0.02:
            break
    return best_s


def _run(parse: Parser, data: bytes) -> None:
    message = ""
    try:
        parse(data)
    except StreamingError as error:
        message = str(error)
    assert len(message) < 2_000, "a server can make the message arbitrarily long"


def test_what_servers_really_send_is_taken() -> None:
    """The inputs from which the fuzzer makes others are valid ones."""
    assert HONEST.keys() == {name for name, _ in PARSERS}
    for name, parse in PARSERS:
        for data in HONEST[name]:
            parse(data)
