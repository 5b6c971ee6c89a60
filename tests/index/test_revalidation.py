"""Data that was added, removed or changed after an index was saved: reported at once, used on request."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from streaming.adapter import StreamingDatasetAdapter
from streaming.core.source_config import DataSourceConfig
from streaming.errors import ConfigError, NoSamples, ObjectChanged, SourceUnavailable
from streaming.sources.base import FileInfo
from streaming.testing import MemorySource

COUNT = 10
WAIT_S = 60.0  # for an event that comes after a second
STALE = ("added_samples", "changed_samples", "removed_samples")


class Watched(MemorySource):
    """Counts its listings, before each of which it does what `meanwhile` does."""

    def __init__(self, config: DataSourceConfig | str = "data") -> None:
        super().__init__(config, {f"{n}.bin": b"%d" % n for n in range(COUNT)})
        self.listings = 0
        self.meanwhile: Callable[[], Any] = lambda: None

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        self.listings += 1
        waiting = self.meanwhile()
        if waiting is not None:
            await waiting
        async for info in super().iter_files(prefix):
            yield info


@pytest.fixture
def source(tmp_path: Path) -> Watched:
    """A source with a saved index, to which one object came, from which one went, and in which one was replaced."""
    source = Watched()
    StreamingDatasetAdapter(source, index_path=tmp_path / "a.index").close()
    source = copy(source)
    source.put("new.bin", b"new")
    source.delete("3.bin")
    source.put("5.bin", b"other")
    return source


class Events(logging.Handler):
    """The messages of the package, and a way to wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []
        self._changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            self.seen.append((record.levelname, record.getMessage()))
            self._changed.notify_all()

    def wait_for(self, event: str) -> tuple[str, str]:
        """The level and text of the first message of this event."""

        def found() -> list[tuple[str, str]]:
            return [each for each in self.seen if each[1].startswith(event)]

        with self._changed:
            assert self._changed.wait_for(found, WAIT_S), self.seen
            return found()[0]


@pytest.fixture
def events() -> Iterator[Events]:
    """Log records of the package."""
    events, logger = Events(), logging.getLogger("streaming")
    before = logger.level
    logger.addHandler(events)
    logger.setLevel(logging.DEBUG)
    yield events
    logger.removeHandler(events)
    logger.setLevel(before)


def stale(adapter: StreamingDatasetAdapter) -> list[int | None]:
    """Return how many objects the adapter reports as added, changed and removed since the index was built."""
    stats = adapter.get_cache_stats()
    return [stats[name] for name in STALE]


def names(adapter: StreamingDatasetAdapter) -> list[str]:
    """The names of its samples."""
    return [adapter.index.name(i) for i in range(len(adapter))]


OLD = [str(n) for n in range(COUNT)]
NEW = sorted([*(name for name in OLD if name != "3"), "new"])


def test_a_warm_start_reports_what_changed_in_the_background(source: Watched, tmp_path: Path, events: Events) -> None:
    """It opens without a listing and keeps its order; then one warning has counts, names and the next step."""
    with StreamingDatasetAdapter(source, index_path=tmp_path / "a.index") as adapter:
        assert adapter[0]["data"] == b"0"
        assert (source.listings, stale(adapter)) == (0, [None, None, None])
        level, text = events.wait_for("index_outdated")
        assert level == "WARNING"
        for detail in ("added=1", "changed=1", "removed=1", "new", "refresh"):
            assert detail in text
        assert (stale(adapter), names(adapter), source.listings) == ([1, 1, 1], OLD, 1)
        with pytest.raises(ObjectChanged):
            adapter[5]


def test_the_file_is_unchanged_until_a_refresh(source: Watched, tmp_path: Path, events: Events) -> None:
    """A background check never replaces the file, so an interrupted run resumes in the same order."""
    before = (tmp_path / "a.index").read_bytes()
    with StreamingDatasetAdapter(source, index_path=tmp_path / "a.index"):
        events.wait_for("index_outdated")
    assert (tmp_path / "a.index").read_bytes() == before


def test_no_change_means_no_warning(tmp_path: Path, events: Events) -> None:
    """The counts are then 0, and the log has a line at DEBUG alone."""
    source = Watched()
    StreamingDatasetAdapter(source, index_path=tmp_path / "a.index").close()
    with StreamingDatasetAdapter(copy(source), index_path=tmp_path / "a.index") as adapter:
        events.wait_for("index_current")
        assert stale(adapter) == [0, 0, 0]
    assert [text for level, text in events.seen if level == "WARNING"] == []


def test_always_takes_over_the_current_objects(source: Watched, tmp_path: Path, events: Events) -> None:
    """The start lists, logs what changed, and saves the new index, which the next start opens."""
    with StreamingDatasetAdapter(source, index_path=tmp_path / "a.index", refresh="always") as adapter:
        assert (names(adapter), source.listings, stale(adapter)) == (NEW, 1, [None, None, None])
        level, text = events.wait_for("index_refreshed")
        assert level == "INFO"
        assert "added=1 changed=1 removed=1" in text
        assert adapter[NEW.index("5")]["data"] == b"other"
    again = copy(source)
    with StreamingDatasetAdapter(again, index_path=tmp_path / "a.index", refresh="never") as adapter:
        assert (names(adapter), again.listings) == (NEW, 0)


def test_always_fails_where_a_listing_does(source: Watched, tmp_path: Path) -> None:
    """A start that must use the current data does not use the old index."""
    source.meanwhile = _fail
    with pytest.raises(SourceUnavailable):
        StreamingDatasetAdapter(source, index_path=tmp_path / "a.index", refresh="always")


def _fail() -> None:
    raise SourceUnavailable("the store is down")


def test_never_lists_again_only_on_demand(source: Watched, tmp_path: Path, events: Events) -> None:
    """`refresh_index` says what changed and saves for the next start; the order of this run stays."""
    with StreamingDatasetAdapter(source, index_path=tmp_path / "a.index", refresh="never") as adapter:
        changes = adapter.refresh_index()
        assert (changes.added, changes.changed, changes.removed) == (["new"], ["5"], ["3"])
        assert (source.listings, stale(adapter), names(adapter)) == (1, [1, 1, 1], OLD)
        assert adapter[1]["data"] == b"1"
        assert len(changes.index) == COUNT
        source.put("newer.bin", b"")
        assert adapter.refresh_index().added == ["new", "newer"]
    with StreamingDatasetAdapter(copy(source), index_path=tmp_path / "a.index", refresh="never") as adapter:
        assert names(adapter) == sorted([*NEW, "newer"])


def test_without_a_file_a_listing_on_demand_only_reports() -> None:
    """There is nothing to save, and each start lists anyway."""
    source = Watched()
    with StreamingDatasetAdapter(source) as adapter:
        assert stale(adapter) == [None, None, None]
        source.put("new.bin", b"")
        assert adapter.refresh_index().added == ["new"]
        assert stale(adapter) == [1, 0, 0]


@pytest.mark.parametrize("what", ["down", "gone"])
def test_a_background_check_that_fails_is_logged_once(
    what: str, source: Watched, tmp_path: Path, events: Events
) -> None:
    """Neither a store that is down nor one that lost every sample ends the run."""
    if what == "gone":
        for name in NEW:
            source.delete(f"{name}.bin")
        source.put("a.parquet", b"")
    else:
        source.meanwhile = _fail
    with StreamingDatasetAdapter(source, index_path=tmp_path / "a.index") as adapter:
        level, text = events.wait_for("index_not_checked")
        assert level == "WARNING"
        assert ("the store is down" if what == "down" else "none becomes a sample") in text
        assert stale(adapter) == [None, None, None]
        with pytest.raises(SourceUnavailable if what == "down" else NoSamples):
            adapter.refresh_index()
    assert len([text for _, text in events.seen if text.startswith("index_not_checked")]) == 1


def test_closing_ends_the_check(source: Watched, tmp_path: Path, events: Events) -> None:
    """A listing that hangs delays neither reads nor `close`, which cancels it or keeps it from starting."""
    began, ended = threading.Event(), threading.Event()

    async def hang() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    source.meanwhile = hang
    with StreamingDatasetAdapter(source, index_path=tmp_path / "a.index") as adapter:
        assert began.wait(WAIT_S)
        assert adapter[0]["data"] == b"0"
        assert not ended.is_set()
    assert ended.is_set()
    again = copy(source)
    StreamingDatasetAdapter(again, index_path=tmp_path / "a.index").close()
    assert again.listings == 0
    assert [text for level, text in events.seen if level == "WARNING"] == []


def test_one_rank_of_a_node_checks(
    source: Watched, tmp_path: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others would list the same; an adapter of another rank, opened before, has listed nothing by then."""
    other = Watched()
    monkeypatch.setenv("LOCAL_RANK", "1")
    with StreamingDatasetAdapter(other, index_path=tmp_path / "a.index"):
        monkeypatch.setenv("LOCAL_RANK", "0")
        with StreamingDatasetAdapter(source, index_path=tmp_path / "a.index"):
            events.wait_for("index_outdated")
        assert other.listings == 0


def test_an_unknown_choice_is_refused(source: Watched) -> None:
    """The value and the choices are named."""
    with pytest.raises(ConfigError, match="refresh='sometimes'"):
        StreamingDatasetAdapter(source, refresh="sometimes")


def test_all_of_it_with_a_process_for_the_owner(tmp_path: Path) -> None:
    """The process that reads also checks, and reports to standard error; on demand the changes come back."""
    folder, path = tmp_path / "data", tmp_path / "a.index"
    folder.mkdir()
    for n in range(COUNT):
        (folder / f"{n}.bin").write_bytes(b"%d" % n)
    StreamingDatasetAdapter(str(folder), index_path=path).close()
    (folder / "new.bin").write_bytes(b"new")
    ours, theirs = os.pipe()
    stderr = os.dup(2)
    os.dup2(theirs, 2)
    os.close(theirs)
    try:
        adapter = StreamingDatasetAdapter(str(folder), index_path=path, owner="process")
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
    with adapter, open(ours) as lines:
        text = next(line for line in lines if "index_outdated" in line)
        assert "added=1 changed=0 removed=0" in text
        assert (stale(adapter), len(adapter)) == ([1, 0, 0], COUNT)
        changes = adapter.refresh_index()
        assert (changes.added, changes.changed, changes.removed) == (["new"], [], [])
        assert (len(changes.index), names(adapter)) == (COUNT + 1, OLD)
    with StreamingDatasetAdapter(str(folder), index_path=path, owner="process", refresh="always") as adapter:
        assert len(adapter) == COUNT + 1
