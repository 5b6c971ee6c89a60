"""Listings that never come to an end, or are larger than any honest one, are refused by a bound that is named."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from streaming.errors import BadRequest, ConfigError, SourceTimeout, SourceUnavailable
from streaming.resilience import stack
from streaming.testing import FakeClock, MemorySource
from tests.fault_server import Answer, Request, in_turn, respond
from tests.resilience.parts import driven, in_time_of
from tests.security.listing_servers import ENGINES, endless, flood, listed, serving, source_over

EACH = pytest.mark.parametrize("lister", ENGINES)
BUCKETS = pytest.mark.parametrize("lister", [name for name in ENGINES if name.startswith(("s3", "gcs"))])


@EACH
async def test_pages_without_objects_end_at_the_deadline(lister: str) -> None:
    """Endless pages without objects are not progress; the error names the time limit, and is final."""
    async with serving(endless(objects=0, folders=4 if lister == "http" else 0)) as server:
        with pytest.raises(SourceTimeout, match=r"listing of source 'bad'.*listing_timeout_s=0\.3") as caught:
            await listed(source_over(server.url, lister, listing_timeout_s=0.3))
    assert not caught.value.retryable


@EACH
async def test_objects_without_end_are_refused(lister: str) -> None:
    """An endless listing is stopped at the limit, and the error names it."""
    async with serving(endless(objects=100, folders=2 if lister == "http" else 0)) as server:
        with pytest.raises(BadRequest, match=r"listing of source 'bad'.*max_listing_entries=1000 "):
            await listed(source_over(server.url, lister, max_listing_entries=1000))
        assert len(server.requests) < 100


@BUCKETS
async def test_folders_in_folders_of_a_bucket_are_refused(lister: str) -> None:
    """A bucket that shows a full page of four folders at each level is followed down to the limit of depth."""
    async with serving(endless(objects=600, folders=4)) as server:
        with pytest.raises(BadRequest, match=r"nested deeper than 2: .*max_listing_depth"):
            await listed(source_over(server.url, lister, max_listing_depth=2))


@BUCKETS
async def test_a_folder_that_contains_itself_is_left_out(lister: str) -> None:
    """A bucket that lists a folder as its own child does not have it listed again."""
    async with serving(endless(objects=600, folders=4, loop=True)) as server:
        assert await listed(source_over(server.url, lister)) == 0
        assert len(server.requests) < 5


@pytest.mark.parametrize("prefix", ["", "folder/x"])
@pytest.mark.parametrize("lister", ["s3 by obstore", "gcs by obstore"])
async def test_the_second_way_to_list_a_bucket_has_the_same_bounds(lister: str, prefix: str) -> None:
    """A server that refuses the library's own requests is listed by obstore, which follows pages itself."""

    def refusing(answer: Answer) -> Answer:
        async def refuse(request: Request, writer: asyncio.StreamWriter) -> None:
            await (respond(400) if "encoding-type" in request.target else answer)(request, writer)

        return refuse

    async with serving(refusing(endless(objects=0))) as server:
        async with source_over(server.url, lister, listing_timeout_s=0.5) as source:
            with pytest.raises(SourceTimeout, match=r"listing_timeout_s=0\.5"):
                await source.list_files(prefix)


@BUCKETS
async def test_an_empty_page_is_not_the_end(lister: str) -> None:
    """A store may answer with a page of nothing and the mark of the next one."""
    empty, full = endless(objects=0), endless(objects=3)
    page = _last_page(lister)
    async with serving(in_turn(empty, full, page)) as server:
        assert await listed(source_over(server.url, lister)) == 3


def _last_page(lister: str) -> Answer:
    return respond(body=b"{}" if lister == "gcs by gcsfs" else b"<ListBucketResult></ListBucketResult>")


@EACH
async def test_a_page_without_end_is_refused(lister: str) -> None:
    """A page is not taken beyond its limit, which is not that of objects; the error names it."""
    heads = {"s3": b"<ListBucketResult>", "gcs by obstore": b"<ListBucketResult>", "http": b"Index of "}
    head = next((head for name, head in heads.items() if lister.startswith(name)), b"[")
    async with serving(flood(head, b" " * 65_536)) as server:
        with pytest.raises(BadRequest, match=r"page .*max_listing_page_bytes=1000000"):
            await listed(source_over(server.url, lister, max_listing_page_bytes="1MB", timeout_s=30))


async def test_a_packed_page_is_refused_by_what_it_holds() -> None:
    """A page that is packed small is bounded by what is decompress_body from it."""
    body = gzip.compress(b"Index of " + bytes(50_000_000))
    async with serving(respond(body=body, Content_Encoding="gzip", Content_Type="text/html")) as server:
        with pytest.raises(BadRequest, match=r"max_listing_page_bytes=1000000"):
            await listed(source_over(server.url, "http", max_listing_page_bytes="1MB"))


async def test_an_index_file_has_the_same_limits() -> None:
    """An index file is a page, and what it names is counted."""
    options = {"index": "index.txt"}
    async with serving(respond(body=b"".join(b"%d.bin\n" % number for number in range(2000)))) as server:
        assert await listed(source_over(server.url, "http", storage_options=options)) == 2000
        for setting, value in (("max_listing_page_bytes", 5000), ("max_listing_entries", 1000)):
            with pytest.raises(BadRequest, match=f"{setting}={value}"):
                await listed(source_over(server.url, "http", storage_options=options, **{setting: value}))


@EACH
async def test_a_mirror_lists_where_a_server_does_not_end(lister: str) -> None:
    """What one server cannot list within its bounds, a mirror may."""
    async with serving(endless(objects=100, folders=2 if lister == "http" else 0)) as server:
        bad = source_over(server.url, lister, max_listing_entries=500)
        async with stack([bad, MemorySource("good", {"a.bin": b"a"})]) as source:
            assert await source.list_files() == ["a.bin"]


def _asking(seconds: float) -> SourceUnavailable:
    error = SourceUnavailable("busy", source="as_async_provider")
    error.retry_after_s = seconds
    return error


@pytest.mark.parametrize("seconds", [86_400.0, float("inf")])
async def test_a_pause_that_a_server_asks_for_is_capped(seconds: float) -> None:
    """A day of `Retry-After` does not put a listing to sleep for a day; the error names the cap."""

    class Busy(MemorySource):
        def iter_files(self, prefix: str = "") -> Any:
            raise _asking(seconds)

    clock = FakeClock()
    context = in_time_of(clock, retry_after_max_s=20.0, listing_attempts=3, backoff_max_s=1.0)
    async with stack([Busy("as_async_provider", {})], context) as source:
        with pytest.raises(SourceUnavailable, match=r"3 attempts|retry_after_max_s=20") as caught:
            await driven(clock, source.list_files(), most_s=50.0)
    assert "retry_after_max_s=20" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("listing_timeout_s", 0), ("max_listing_entries", 0), ("max_listing_depth", -1), ("max_listing_page_bytes", "0")],
)
def test_bounds_that_bound_nothing_are_refused(setting: str, value: Any) -> None:
    """Each bound is a number above zero."""
    with pytest.raises(ConfigError, match=setting):
        source_over("http://127.0.0.1:9/", "http", **{setting: value})
