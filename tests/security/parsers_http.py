"""Every parser of text from a server, as a function of bytes that either takes them or raises an error of the library.

`PARSERS` is for fuzzing, and for measuring that the work grows with the input and no faster.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from streaming.errors import BadRequest
from streaming.sources import header_values as values
from streaming.sources.gcs.listing_page import parse_items, parse_object
from streaming.sources.header_values import plain_etag, stable_etag
from streaming.sources.http.html_listing import parse_autoindex, parse_index
from streaming.sources.huggingface.listing_page import page_of
from streaming.sources.listing_page import parse_list_objects
from streaming.sources.obstore.error_translation import to_source_error
from streaming.sources.status_codes import error_for_status

URL = "http://host.example/data/"
Parser = Callable[[bytes], None]


def text_of(data: bytes) -> str:
    """A header's value, as the clients give it."""
    return data.decode("utf-8", "surrogateescape")


def _refusing(parse: Callable[[bytes], object]) -> Parser:
    """A parser whose callers make a `SourceError` of its `ValueError`."""

    def refusing(data: bytes) -> None:
        try:
            parse(data)
        except ValueError as error:
            raise BadRequest(str(error)[:100]) from error

    return refusing


def _ignoring(parse: Callable[[bytes], object]) -> Parser:
    """A parser whose result has no bounds to check."""

    def ignoring(data: bytes) -> None:
        parse(data)

    return ignoring


def _autoindex(content_type: str) -> Parser:
    def parse(data: bytes) -> None:
        names = parse_autoindex(data, content_type, URL, "web")
        assert all(-1 <= info.size <= values.LARGEST for info in names.files)

    return parse


def _index(data: bytes) -> None:
    assert all(-1 <= info.size <= values.LARGEST for info in parse_index(data, f"{URL}index", URL, "web"))


def _retry_after(data: bytes) -> None:
    asked_s = error_for_status(503, "a.bin", "web", {"Retry-After": text_of(data)}).retry_after_s
    assert asked_s is None or 0 <= asked_s < float("inf")


def _content_range(data: bytes) -> None:
    first, size = values.content_range(text_of(data))
    assert all(number is None or 0 <= number <= values.LARGEST for number in (first, size))


def _etag(data: bytes) -> None:
    plain_etag(text_of(data))
    stable_etag(text_of(data), 10)


def _link(data: bytes) -> None:
    found = values.next_link([text_of(data)], URL)
    assert found is None or found.startswith(("http://", "https://", "HTTP://", "HTTPS://")), found


def _dates(data: bytes) -> None:
    for parse in (values.http_time, values.iso_time):
        time = parse(text_of(data))
        assert time is None or -1e12 < time < 1e12


PARSERS: list[tuple[str, Parser]] = [
    ("autoindex", _autoindex("text/html")),
    ("autoindex in JSON", _autoindex("application/json")),
    ("index file", _index),
    ("keys of S3", _refusing(lambda data: parse_list_objects(data, 2))),
    ("items of GCS", _refusing(lambda data: parse_items(data, 2))),
    ("object of GCS", _ignoring(parse_object)),
    ("page of the Hub", _refusing(lambda data: page_of(values.parse_json(data)))),
    ("Retry-After", _retry_after),
    ("Content-Range", _content_range),
    ("ETag", _etag),
    ("Link", _link),
    ("dates", _dates),
    ("error of a store", _ignoring(lambda data: to_source_error(ValueError(text_of(data)), "a", "s3", 1.0))),
]
"""A name, and what raises nothing but errors of the library, whatever the bytes."""

HONEST: dict[str, list[bytes]] = {
    "autoindex": [
        b'<html><head><title>Index of /data</title></head><body><h1>Index of /data</h1><pre><a href="../">../</a>\n'
        b'<a href="sub/">sub/</a>        01-Jan-2026 10:00       -\n'
        b'<a href="x%20%C3%BC.pt">x</a>  01-Jan-2026 10:00     123\n</pre></body></html>'
    ],
    "autoindex in JSON": [b'[{"name": "x.pt", "type": "file", "mtime": "Thu, 01 Jan 2026 10:00:00 GMT", "size": 12}]'],
    "index file": [b"a.pt\nb/c.pt\n", b'["a.pt", {"path": "b.pt", "size": 3, "etag": "x"}]'],
    "keys of S3": [
        b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b"<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>t"
        b"</NextContinuationToken><Contents><Key>d/a%20b.pt</Key><Size>3</Size><ETag>&quot;x&quot;</ETag><LastModified>"
        b"2026-01-01T10:00:00.000Z</LastModified></Contents><CommonPrefixes><Prefix>d/e/</Prefix></CommonPrefixes>"
        b"</ListBucketResult>"
    ],
    "items of GCS": [
        b'{"items": [{"name": "d/a.pt", "size": "3", "etag": "x", "updated": "2026-01-01T10:00:00Z", "generation": '
        b'"1"}], "prefixes": ["d/e/"], "nextPageToken": "t"}'
    ],
    "object of GCS": [b'{"name": "a.pt", "size": "3", "etag": "x", "updated": "2026-01-01T10:00:00Z"}'],
    "page of the Hub": [
        b'[{"type": "file", "path": "a.pt", "size": 3, "oid": "0a", "lfs": {"oid": "0b", "size": 3}}, '
        b'{"type": "directory", "path": "d", "size": 0, "oid": "1"}]'
    ],
    "Retry-After": [b"120", b"Thu, 01 Jan 2026 10:00:00 +0100"],
    "Content-Range": [b"bytes 0-9/10", b"bytes */10"],
    "ETag": [b'W/"1f-c-5e0"', b'"abc-gzip"'],
    "Link": [b'<http://host.example/data/?cursor=x>; rel="next"'],
    "dates": [b"Thu, 01 Jan 2026 10:00:00 GMT", b"2026-01-01T10:00:00.000Z"],
    "error of a store": [b"Status { status: 403, body: <Code>AccessDenied</Code><Region>eu-west-1</Region> }"],
}
"""Valid inputs of each parser."""

TOKENS: list[bytes] = [
    *(
        b"<",
        b">",
        b"<a ",
        b"<a href",
        b"<a href='",
        b"<a href='x'>",
        b'<a href="x">',
        b"</a>",
        b"href=",
        b"href ",
        b"'",
    ),
    *(
        b'"',
        b"Index of",
        b"../",
        b"%2e%2e%2f",
        b"%00",
        b"&#",
        b"&#x",
        b"&amp;",
        b"&lt;a ",
        b"http://[",
        b"//h:9999999/",
    ),
    *(b"{", b"}", b"[", b"]", b",", b":", b'"name":', b'"path":"a"', b'"type":"file"', b'"size":', b'"lfs":', b"null"),
    *(b"<ListBucketResult>", b"</ListBucketResult>", b"<Contents>", b"</Contents>", b"<Key>", b"</Key>", b"<Size>"),
    *(b"</Size>", b"<!DOCTYPE a [", b"<!ENTITY b 'c'>", b"&b;", b"<![CDATA[", b"]]>", b"<!--", b' xmlns="', b"<?xml "),
    *(
        b"bytes ",
        b"bytes 0-",
        b"/",
        b"*",
        b"9" * 40,
        b"-1",
        b"1e999",
        b"+99999999999999999999",
        b"\xd9\xa3",
        b"\xc2\xb2",
    ),
    *(b"Wed, 21 Oct 2015 07:28:00 ", b"GMT", b"0001-01-01T00:00:00", b"+23:59", b"99999-13-77", b"T", b"Z", b" 1 "),
    *(b"21-Nov-2025 03:54   ", b"99-Xyz-0000 99:99 ", b'rel="next"', b"rel=next", b";", b'W/"', b"-gzip", b"a-8-5f"),
    *(
        b"\\ud800",
        b'"\\udfff"',
        b"\x00",
        b"\xff",
        b"\r\n",
        b"\n",
        b" ",
        b"\t",
        b"Status { status: ",
        b"<Code>",
        b"</Code>",
    ),
    *(
        b'Path "',
        b'" contained empty',
        b"<Region>",
        b"source: Header { source: ",
        b"HttpError { kind: ",
        b"' is wrong;",
    ),
]
"""Tokens with a meaning to one of the parsers, to be combined at random or repeated."""

hostile = st.one_of(
    st.lists(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=6)), max_size=40).map(b"".join),
    st.binary(max_size=200),
    st.builds(lambda token, count: token * count, st.sampled_from(TOKENS), st.integers(1, 5000)),
)
"""Bytes for any of the parsers."""
