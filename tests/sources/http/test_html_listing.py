"""Listings of an HTTP source: pages of several servers, index files, lists of URLs, and hostile ones."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from streaming.adapter import StreamingDatasetAdapter
from streaming.core.source_config import DataSourceConfig
from streaming.errors import AccessDenied, BadRequest, ObjectChanged, ObjectNotFoundError
from streaming.index.containers.jsonl import find_lines
from streaming.sources import HTTPDataSource
from streaming.sources.base import FileInfo
from tests.conftest import WebServer
from tests.fault_server import FaultServer, in_turn, ranged, respond

Make = Callable[..., HTTPDataSource]


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    """A server that shows what each test gives it."""
    async with FaultServer() as server:
        yield server


@pytest.fixture
async def make(server: FaultServer) -> AsyncIterator[Make]:
    """Makes sources over the server's folder `/data/`, and closes them."""
    made: list[HTTPDataSource] = []

    def make(url: str = "", **storage_options: Any) -> HTTPDataSource:
        config = DataSourceConfig("web", "http", url or f"{server.url}data", storage_options=storage_options)
        made.append(HTTPDataSource(config))
        return made[-1]

    yield make
    for source in made:
        await source.aclose()


async def listed(source: HTTPDataSource) -> list[FileInfo]:
    """All that `source` lists, in its order."""
    return [info async for info in source.iter_files()]


def page(*links: str) -> bytes:
    """A listing with these links."""
    return ("<h1>Index of /</h1>" + "\n".join(f'<a href="{link}">text</a>' for link in links)).encode()


async def test_pages_of_python(python_server: WebServer, make: Make) -> None:
    """The listings of `http.server` are followed; sizes are not known from them, ranges work although it has none."""
    folder = python_server.root / "sub dir"
    folder.mkdir()
    (folder / "a&b #1.bin").write_bytes(b"0123456789")
    (python_server.root / "c.bin").touch()
    source = make(python_server.url)
    assert await listed(source) == [FileInfo("c.bin", -1), FileInfo("sub dir/a&b #1.bin", -1)]
    assert bytes((await source.read("sub dir/a&b #1.bin", 3, 6)).data) == b"345"


async def test_pages_of_apache(server: FaultServer, make: Make) -> None:
    """Apache's tables are parsed; links that sort the page or lead up, and rounded sizes, are ignored."""
    body = b"""<html><head><title>Index of /data</title></head><body><table>
    <tr><th><a href="?C=N;O=D">Name</a></th><th><a href="?C=M;O=A">Last modified</a></th></tr>
    <tr><td><a href="/">Parent Directory</a></td><td>&nbsp;</td></tr>
    <tr><td><A HREF='a&amp;b.bin'>a&amp;b.bin</A></td><td>2025-01-01 10:00</td><td>1.2K</td></tr>
    <tr><td><a class="x" href="sub/">sub/</a></td></tr></table></body></html>"""
    server.answers["/data/"] = respond(body=body, Content_Type="text/html;charset=UTF-8")
    server.answers["/data/sub/"] = respond(body=page("../", "z.bin", "z.bin"), Content_Type="text/html")
    assert await listed(make()) == [FileInfo("a&b.bin", -1), FileInfo("sub/z.bin", -1)]


@pytest.mark.parametrize("listing", ["", "json/"])
async def test_pages_of_nginx_have_size_and_time(nginx: WebServer, make: Make, tmp_path: Path, listing: str) -> None:
    """Sizes are exact, and times are within the minute that the HTML has."""
    folder = nginx.root / tmp_path.name
    folder.mkdir()
    name = "a long name that the page cuts off in its text but not in the link of it.bin"
    (folder / name).write_bytes(bytes(123_456))
    (info,) = await listed(make(f"{nginx.url}{listing}{tmp_path.name}"))
    assert (info.path, info.size) == (name, 123_456)
    assert info.modified is not None
    assert abs(info.modified - (folder / name).stat().st_mtime) < 61


async def test_prefix_asks_for_few_pages(server: FaultServer, make: Make) -> None:
    """A prefix is used to leave out folders that cannot hold anything it selects."""
    server.answers["/data/"] = respond(body=page("a/", "ab/", "b/", "a.bin"))
    server.answers["/data/a/"] = respond(body=page("x.bin"))
    server.answers["/data/ab/"] = respond(body=page("y.bin"))
    assert await make().list_files("a") == ["a.bin", "a/x.bin", "ab/y.bin"]
    assert await make().list_files("a/x") == ["a/x.bin"]
    asked = [request.target for request in server.requests]
    assert asked == ["/data/", "/data/a/", "/data/ab/", "/data/a/"]


async def test_hostile_pages_stay_below_their_folder(server: FaultServer, make: Make) -> None:
    """Links up, to other hosts and schemes, or with escaped `..` or separators, are ignored."""
    links = [
        "../../etc/passwd",
        "/etc/passwd",
        "/data/../x",
        "http://other.example/x",
        "//other.example/x",
        "file:///x",
    ]
    links += [
        "..%2fx",
        "%2e%2e/x",
        "a%2fb",
        "a/b/c",
        "%2e%2e",
        ".",
        "a%00b",
        "javascript:x",
        "#top",
        "?x",
        "",
        "data:x",
    ]
    server.answers["/data/"] = respond(body=page(*links, "/data/good.bin"))
    assert await make().list_files() == ["good.bin"]


async def test_hostile_json_pages(server: FaultServer, make: Make) -> None:
    """Names with separators or climbs, other types and odd sizes are left out or unknown, never followed."""
    entries = [
        {"name": "../x", "type": "file", "size": 1},
        {"name": "..", "type": "directory"},
        {"name": "a/b", "type": "directory"},
        {"name": "device", "type": "other"},
        {"name": "odd.bin", "type": "file", "size": "12", "mtime": "never"},
        {"name": "minus.bin", "type": "file", "size": -3},
    ]
    server.answers["/data/"] = respond(body=json.dumps(entries).encode(), Content_Type="application/json")
    assert await listed(make()) == [FileInfo("minus.bin", -1), FileInfo("odd.bin", -1)]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<html><h1>Welcome</h1><a href='shop.html'>shop</a></html>", "text/html"),
        (b"", "text/html"),
        (b"\xff\xfe\x00", "text/html"),
        (b'{"name": 1}', "application/json"),
        (b"[1, 2]", "application/json"),
        (b'[{"name": 1}]', "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"[", "application/json"),
    ],
)
async def test_pages_that_are_not_listings(server: FaultServer, make: Make, body: bytes, content_type: str) -> None:
    """A page that is not a listing is an error with the setting to use, never an empty source."""
    server.answers["/data/"] = respond(body=body, Content_Type=content_type)
    with pytest.raises(BadRequest, match=r"is not a listing.*urls or index"):
        await make().list_files()


async def test_listings_that_are_refused_or_missing(server: FaultServer, make: Make) -> None:
    """A server without listings is `AccessDenied` with the way out, a missing root is missing."""
    server.answers["/data/"] = respond(403)
    with pytest.raises(AccessDenied, match="urls or index"):
        await make().list_files()
    with pytest.raises(ObjectNotFoundError):
        await make(f"{server.url}other").list_files()
    with pytest.raises(ObjectNotFoundError):
        await make(f"{server.url}other").list_files("below/x")


async def test_folder_that_vanishes_is_left_out(server: FaultServer, make: Make) -> None:
    """A folder removed between its parent's page and its own leaves the rest of the listing as it is."""
    server.answers["/data/"] = respond(body=page("gone/", "a.bin"))
    assert await make().list_files() == ["a.bin"]


async def test_folders_that_repeat_forever(server: FaultServer, make: Make) -> None:
    """A link on the server that leads back up ends with an error that names it."""
    for depth in range(40):
        server.answers["/data/" + "loop/" * depth] = respond(body=page("loop/"))
    with pytest.raises(BadRequest, match=r"nested deeper than 32.*loop"):
        await make().list_files()


async def test_many_folders(server: FaultServer, make: Make) -> None:
    """More folders than pages are read at once all arrive, in order."""
    folders = [f"{number:03}/" for number in range(50)]
    server.answers["/data/"] = respond(body=page(*reversed(folders)))
    for folder in folders:
        server.answers[f"/data/{folder}"] = respond(body=page("b.bin", "a.bin"))
    paths = [info.path for info in await listed(make())]
    assert paths == [f"{folder}{name}.bin" for folder in folders for name in "ab"]


async def test_index_of_lines(server: FaultServer, make: Make) -> None:
    """A text file names a path a line as it is written, or a URL below the root; each object once."""
    lines = ["b/100% #1?.bin", "", f"{server.url}data/a%20b.bin", "b/100% #1?.bin\r", "ünï.bin"]
    server.answers["/data/index.txt"] = respond(body="\n".join(lines).encode())
    source = make(index="index.txt")
    assert await listed(source) == [FileInfo(path, -1) for path in ("a b.bin", "b/100% #1?.bin", "ünï.bin")]
    assert await source.list_files("b/") == ["b/100% #1?.bin"]


async def test_index_in_json(server: FaultServer, make: Make) -> None:
    """A JSON list may have sizes and ETags, or just paths, and may be anywhere on the server."""
    entries = [{"path": "a.bin", "size": 5, "etag": '"e"'}, {"path": "b.bin", "size": None}, "c.bin"]
    server.answers["/lists/x.json"] = respond(body=json.dumps(entries).encode())
    source = make(index=f"{server.url}lists/x.json")
    assert await listed(source) == [FileInfo("a.bin", 5, "e"), FileInfo("b.bin", -1), FileInfo("c.bin", -1)]


@pytest.mark.parametrize(
    "entry",
    ["../x.bin", "/etc/passwd", "a\0b", "http://other.example/x.bin", "{root}../x.bin", "{root}%2e%2e/x.bin", "{root}"],
)
async def test_hostile_index(server: FaultServer, make: Make, entry: str) -> None:
    """An entry that leads out of the root is an error that names entry and index."""
    entry = entry.format(root=f"{server.url}data/")
    for body in (f"good.bin\n{entry}", json.dumps(["good.bin", entry]), json.dumps([{"path": entry}])):
        server.answers["/data/index"] = respond(body=body.encode())
        with pytest.raises(BadRequest, match=r"entry .* of index"):
            await make(index="index").list_files()


async def test_index_that_is_missing_or_broken(server: FaultServer, make: Make) -> None:
    """A missing index file is reported by name; an invalid one is not a listing."""
    with pytest.raises(ObjectNotFoundError, match=r"index\.json"):
        await make(index="index.json").list_files()
    for body in (b"[1]", b'[{"size": 1}]', b'["a.bin",'):
        server.answers["/data/index.json"] = respond(body=body)
        with pytest.raises(BadRequest, match=r"index\.json"):
            await make(index="index.json").list_files()


async def test_list_of_urls(server: FaultServer, make: Make) -> None:
    """Listed URLs go by their path from the root, those on other hosts by their whole path, signed or not."""
    server.answers["/data/a%20b.bin"] = respond(body=b"own")
    server.answers["/data/signed.bin?sig=1"] = respond(body=b"signed")
    async with FaultServer() as other:
        other.answers["/bucket/x.bin?sig=a%2Bb"] = respond(body=b"other")
        urls = [f"{server.url}data/a%20b.bin", f"{server.url}data/signed.bin?sig=1", "plain.bin"]
        source = make(urls=[*urls, f"{other.url}bucket/x.bin?sig=a%2Bb"])
        assert await source.list_files() == ["a b.bin", "bucket/x.bin", "plain.bin", "signed.bin"]
        for path, expected in (("a b.bin", b"own"), ("signed.bin", b"signed"), ("bucket/x.bin", b"other")):
            assert bytes((await source.read(path)).data) == expected


async def test_empty_list_of_urls_is_an_empty_source(make: Make) -> None:
    """No URLs means no objects, not a look at the server's listing."""
    assert await make(urls=[]).list_files() == []


SAME_OBJECT = {
    "as listed": '"9c41-8-5f3a1b"',
    "weak": 'W/"9c41-8-5f3a1b"',
    "packed by Apache": '"9c41-8-5f3a1b-gzip"',
    "packed by another server": 'W/"9c41-8-5f3a1b--gzip"',
    "on another node": '"77e0-8-5f3a1b"',
    "none": "",
}


@pytest.mark.parametrize("etag", SAME_OBJECT.values(), ids=SAME_OBJECT)
@pytest.mark.parametrize("engine", ["obstore", "aiohttp"])
async def test_etags_of_one_object_agree(server: FaultServer, etag: str, engine: str) -> None:
    """Servers that compress and nodes with files of their own write the ETag of an unchanged object in other ways."""
    entry = {"path": "a.json", "size": 8, "etag": '"9c41-8-5f3a1b"'}
    server.answers["/data/index.json"] = respond(body=json.dumps([entry]).encode())
    time: dict[str, Any] = {"Last_Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    tag: dict[str, Any] = {"ETag": etag} if etag else {}
    server.answers["/data/a.json"] = respond(body=b'{"x": 1}', **time, **tag)
    assert await asyncio.to_thread(first_sample, server, engine) == {"x": 1}
    server.answers["/data/a.json"] = respond(body=b'{"x": 2}', **time, ETag='"9c41-8-5f3a1c"')
    with pytest.raises(ObjectChanged, match=r"a\.json"):
        await asyncio.to_thread(first_sample, server, engine)


@pytest.mark.parametrize("is_first", [True, False])
async def test_index_with_an_etag_for_some(server: FaultServer, make: Make, is_first: bool) -> None:
    """Where an index file gives some objects an ETag, the others are read all the same."""
    entries: list[Any] = [{"path": "a.json", "size": 8}, {"path": "b.json", "size": 8, "etag": '"b"'}]
    if not is_first:
        entries = [{**entries[0], "etag": '"a"'}, {"path": "b.json", "size": 8}]
    server.answers["/data/index.json"] = respond(body=json.dumps(entries).encode())
    for name in ("a", "b"):
        server.answers[f"/data/{name}.json"] = respond(body=b'{"x": 1}', ETag=f'"{name}"')
    assert await asyncio.to_thread(first_sample, server, "aiohttp") == {"x": 1}


async def test_lines_from_several_nodes(server: FaultServer, make: Make) -> None:
    """An object of lines is read in pieces, which may come from different nodes with ETags of their own."""
    lines = b"".join(b'{"x": %d}\n' % number for number in range(3))
    nodes = [ranged(lines, ETag=f'"{node}-{len(lines):x}-5f3a1b"') for node in ("9c41", "77e0", "1a")]
    changed = ranged(lines, ETag=f'"1a-{len(lines):x}-5f3a1c"')
    source = make()
    server.answers["/data/a.jsonl"] = in_turn(*nodes, *nodes)
    found = await find_lines(source, "a.jsonl", -1, chunk_bytes=10)
    assert found.starts.tolist() == [0, 9, 18]
    server.answers["/data/a.jsonl"] = in_turn(*nodes[:2], changed)
    with pytest.raises(ObjectChanged, match=r"a\.jsonl"):
        await find_lines(source, "a.jsonl", -1, chunk_bytes=10)


def first_sample(server: FaultServer, engine: str) -> Any:
    """The first sample of a data set over the server's folder and index."""
    options = {"index": "index.json"}
    config = {"name": "web", "type": "http", "path": f"{server.url}data", "engine": engine, "storage_options": options}
    with StreamingDatasetAdapter(config) as adapter:
        return adapter[0]["web"]


async def test_folders_in_an_index_are_skipped(server: FaultServer, make: Make) -> None:
    """An index that names folders too, as `find` does, has its objects listed, and the folders counted."""
    server.answers["/data/index.txt"] = respond(body=b"sub/\nsub/a.bin\n")
    source = make(index="index.txt")
    assert await source.list_files() == ["sub/a.bin"]
    assert source.skipped.counts == {"folder_name": {"": 1}}


@pytest.mark.parametrize("name", ["a%2Fb.bin", "nul%00.bin", "..%2Fup.bin"])
async def test_names_with_hidden_separators_are_skipped(server: FaultServer, make: Make, name: str) -> None:
    """A listed name that no path can be made of is counted, and the rest of the page is listed."""
    server.answers["/data/"] = respond(body=page("a.bin", name, "z.bin"))
    source = make()
    assert await source.list_files() == ["a.bin", "z.bin"]
    assert source.skipped.total() == 1


async def test_listing_of_an_encoded_page(server: FaultServer, make: Make) -> None:
    """A page that the server compresses without being asked is decompressed."""
    server.answers["/data/"] = respond(body=gzip.compress(page("a.bin")), Content_Encoding="gzip")
    assert await make().list_files() == ["a.bin"]
