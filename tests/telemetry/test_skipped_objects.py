"""Objects that are left out are counted by reason and suffix, and described in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from streaming.errors import AccessDenied
from streaming.index import SampleIndex
from streaming.resilience import stack
from streaming.sources.base import DataSource, FileInfo
from streaming.telemetry.skipped_objects import NEXT_STEPS, REASONS, USUAL, Skips, suffix_of
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
        skips.add("unsupported_suffix", path)
    assert skips.describe() == (
        "3 with a suffix that no codec reads (.parquet 2, .csv 1; first 'x/a.csv'); "
        "1 not a regular file (no suffix 1; first 'pipe')"
    )
    assert (skips.total(), skips.total(without=frozenset({"unsupported_suffix"}))) == (4, 1)
    assert skips.describe(without=frozenset(REASONS)) == ""
    assert not Skips()


def test_memory_is_bounded() -> None:
    """A million suffixes and paths leave a few, and no object uncounted."""
    skips = Skips()
    for number in range(10_000):
        skips.add("unsupported_suffix", f"shard.{number}")
    assert skips.total() == 10_000
    assert len(json.dumps(skips.to_json())) < 1_000


def test_what_two_have_counted_adds_up_and_can_be_saved() -> None:
    """Sums, with the first examples of both, survive JSON."""
    first, second = Skips(), Skips()
    first.add("hidden", ".a")
    second.add("hidden", ".b")
    second.add("unsupported_suffix", "c.csv")
    first.update(second)
    again = Skips.from_json(json.loads(json.dumps(first.to_json())))
    assert again.counts == {"hidden": {"": 2}, "unsupported_suffix": {".csv": 1}}
    assert again.examples == {"hidden": [".a", ".b"], "unsupported_suffix": ["c.csv"]}
    assert set(REASONS) >= USUAL


def test_a_description_is_one_short_line() -> None:
    """Control characters in paths and suffixes are escaped, and a long key is cut."""
    skips = Skips()
    skips.add("not_in_engine", "a\tb.p\nt")
    skips.add("outside_root", "../" + "k" * 1_000)
    text = skips.describe()
    assert text.isprintable()
    assert "first 'a\\tb.p\\nt'" in text
    assert len(text) < 300


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_a_next_step(reason: str) -> None:
    """What is warned of can be acted on; what only the index looks at has a warning of its own."""
    assert (reason in NEXT_STEPS) != (reason in {"compressed_twin", "metadata_name", "other_format"})


@pytest.mark.parametrize("reason", sorted(set(REASONS) - {"metadata_name", "other_format"}))
def test_every_reason_is_documented(reason: str) -> None:
    """The guide says of each what it means and what one can do."""
    guide = (Path(__file__).parents[2] / "INTEGRATION_GUIDE.md").read_text(encoding="utf-8")
    table = guide.partition("### Objects that become no sample")[2].partition("\n## ")[0]
    assert f"`{reason}`" in table


def test_equal_next_steps_are_listed_once() -> None:
    """Several reasons may share a remedy, and a custom source may have reasons of its own."""
    skips = Skips()
    skips.add("folder_name", "a/")
    skips.add("outside_root", "/b")
    skips.add("my_reason", "c")
    assert skips.next_steps() == "rename these objects"
    assert skips.next_steps(without=frozenset(REASONS)) == "check what is stored there"


class Picky(MemorySource):
    """A source that cannot read every key that it lists, and whose listing fails halfway if `is_refused`."""

    is_refused = False

    async def iter_files(self, prefix: str = ""):
        skips = Skips()
        async for info in super().iter_files(prefix):
            if "odd" in info.path:
                skips.add("not_in_engine", info.path)
                continue
            yield FileInfo(info.path, info.size)
        if self.is_refused:
            raise AccessDenied("the rest of the listing is denied")
        self.skipped = skips


WRAPS: list[Callable[[Sequence[DataSource]], DataSource]] = [
    lambda replicas: replicas[0],
    stack,
    lambda replicas: LatencySource(replicas[0], 0.0),
]
each_wrap = pytest.mark.parametrize("wrap", WRAPS, ids=["plain", "resilience", "testing"])
Wrap = Callable[[Sequence[DataSource]], DataSource]


@each_wrap
async def test_wrappers_pass_on_what_a_listing_left_out(wrap: Wrap, caplog: pytest.LogCaptureFixture) -> None:
    """With one replica or several, listed once or twice, the numbers are those of the last listing, logged once."""
    replicas = [Picky(name, {"a.pt": b"", "odd.pt": b""}) for name in ("first", "second")]
    for count in (1, 2):
        source = wrap(replicas[:count])
        for _ in range(2):
            caplog.clear()
            assert await source.list_files() == ["a.pt"]
            assert source.skipped.counts == {"not_in_engine": {".pt": 1}}
            assert "odd.pt" in the_warning(caplog)


@each_wrap
async def test_only_a_whole_listing_replaces_what_was_skipped(wrap: Wrap) -> None:
    """One that fails at its end, or is left after its first object, does not change the numbers."""
    replica = Picky("data", {"a.pt": b"", "b.pt": b"", "odd.pt": b""})
    source = wrap([replica])
    await source.list_files()
    replica.put("odd2.pt", b"")
    async with aclosing(source.iter_files()) as files:  # type: ignore[type-var]
        await anext(files)
    assert source.skipped.total() == 1
    replica.is_refused = True
    with pytest.raises(AccessDenied):
        await source.list_files()
    assert source.skipped.total() == 1
    replica.is_refused = False
    await source.list_files()
    assert source.skipped.total() == 2


@each_wrap
async def test_an_index_counts_and_warns_of_it_once(
    wrap: Wrap, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a source cannot read and what the index cannot use stand in one warning and one number, also when saved."""
    replicas = [Picky(name, {"a.pt": b"", "odd.pt": b"", "b.csv": b""}) for name in ("first", "second")]
    index = await SampleIndex.build([wrap(replicas)])
    warning = the_warning(caplog)
    for text in ("objects=2", "1 with a key that obstore cannot read (.pt 1; first 'odd.pt')", "'b.csv'", "rename"):
        assert text in warning
    index.save(tmp_path / "a.index")
    for each in (index, SampleIndex.open(tmp_path / "a.index")):
        assert each.skips.counts == {"not_in_engine": {".pt": 1}, "unsupported_suffix": {".csv": 1}}
        assert each.skipped_objects == 2


def test_replicas_of_a_part_name_paths_from_their_own_folder() -> None:
    """Paths of examples are relative to the root that is listed, as all paths of a source are."""
    skips = Skips()
    skips.add("not_in_engine", "root/x//a.pt")
    below = skips.below("root/")
    assert below.examples == {"not_in_engine": ["x//a.pt"]}
    below.add("not_in_engine", "y//a.pt")
    assert (skips.total(), below.total()) == (1, 2)


def the_warning(caplog: pytest.LogCaptureFixture) -> str:
    """The one warning about skipped objects."""
    [message] = [text for record in caplog.records if "objects_skipped" in (text := record.getMessage())]
    return message
