"""Objects that are left out are counted by reason and suffix, and described in words."""

from __future__ import annotations

import json

import pytest

from streaming.resilience import stack
from streaming.skips import REASONS, USUAL, Skips, suffix_of
from streaming.sources.base import FileInfo
from streaming.testing import LatencySource, MemorySource


@pytest.mark.parametrize(
    ("path", "suffix"),
    [
        ("a/b.parquet", ".parquet"),
        ("a.b/c.TAR.gz", ".tar.gz"),
        ("a.parquet.zst", ".parquet.zst"),
        ("a.zst", ".zst"),
        ("README", ""),
        ("a.b/README", ""),
        (".pt", ""),
        ("a.", ""),
    ],
)
def test_the_suffix_of_a_path(path: str, suffix: str) -> None:
    """It is that of the file's name, with what is packed inside, and empty for names without one."""
    assert suffix_of(path) == suffix.rstrip(".")


def test_counts_by_reason_and_suffix() -> None:
    """The description begins with the most frequent reason and suffix, and names an object."""
    skips = Skips()
    skips.add("special_file", "pipe")
    for path in ("x/a.csv", "b.parquet", "c.parquet"):
        skips.add("no_codec", path)
    assert skips.describe() == (
        "3 no codec for the suffix (.parquet 2, .csv 1; first 'x/a.csv'); "
        "1 a pipe, socket or device (no suffix 1; first 'pipe')"
    )
    assert (skips.total(), skips.total(without=frozenset({"no_codec"}))) == (4, 1)
    assert skips.describe(without=frozenset(REASONS)) == ""
    assert not Skips()


def test_memory_is_bounded() -> None:
    """A million suffixes and paths leave a few, and no object uncounted."""
    skips = Skips()
    for number in range(10_000):
        skips.add("no_codec", f"shard.{number}")
    assert skips.total() == 10_000
    assert len(json.dumps(skips.to_json())) < 1_000


def test_what_two_have_counted_adds_up_and_can_be_saved() -> None:
    """Sums, with the first examples of both, survive JSON."""
    first, second = Skips(), Skips()
    first.add("hidden", ".a")
    second.add("hidden", ".b")
    second.add("no_codec", "c.csv")
    first.update(second)
    again = Skips.from_json(json.loads(json.dumps(first.to_json())))
    assert again.counts == {"hidden": {"": 2}, "no_codec": {".csv": 1}}
    assert again.examples == {"hidden": [".a", ".b"], "no_codec": ["c.csv"]}
    assert set(REASONS) >= USUAL


class Picky(MemorySource):
    """A source that cannot read every key that it lists."""

    async def iter_files(self, prefix: str = ""):  # type: ignore[no-untyped-def]
        skips = Skips()
        async for info in super().iter_files(prefix):
            if "odd" in info.path:
                skips.add("not_in_engine", info.path)
                continue
            yield FileInfo(info.path, info.size)
        self.skipped = skips


@pytest.mark.parametrize("wrap", [stack, lambda copies: LatencySource(copies[0], 0.0)], ids=["resilience", "testing"])
async def test_wrappers_pass_on_what_a_listing_left_out(wrap: object, caplog: pytest.LogCaptureFixture) -> None:
    """One copy or several, listed twice or once: the numbers are those of the last listing, and it is logged once."""
    copies = [Picky(name, {"a.pt": b"", "odd.pt": b""}) for name in ("first", "second")]
    for count in (1, 2):
        source = wrap(copies[:count])  # type: ignore[operator]
        for _ in range(2):
            caplog.clear()
            assert await source.list_files() == ["a.pt"]
            assert source.skipped.counts == {"not_in_engine": {".pt": 1}}
            [record] = [record for record in caplog.records if "objects_skipped" in record.getMessage()]
            assert "odd.pt" in record.getMessage()
