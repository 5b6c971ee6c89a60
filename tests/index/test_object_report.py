"""Objects that do not become samples: refused where none does, counted and reported where some do not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from streaming.core.source_config import DataSourceConfig
from streaming.errors import ConfigError, IndexBuildError, MissingPart, NoSamples
from streaming.index import SampleIndex, configuration
from streaming.sources.local.source import LocalDataSource
from streaming.testing import MemorySource


def memory(*paths: str, name: str = "data", **options: Any) -> MemorySource:
    """A source whose objects hold their own paths."""
    config = DataSourceConfig(name, "memory", f"memory://{name}", **options)
    return MemorySource(config, {path: path.encode() for path in paths})


def warnings(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    """The messages of the warnings of this event."""
    shown = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    return [message for message in shown if message.startswith(event)]


@pytest.mark.parametrize("suffix", [".parquet", ".tar", ".csv", ".h5", ".zip", ".parquet.zst", ""])
@pytest.mark.parametrize("mapping", [None, ["data"], {"latnets": "latents"}])
async def test_objects_of_which_none_can_be_read_are_an_error(
    suffix: str, mapping: dict[str, str] | list[str] | None
) -> None:
    """The error counts them by suffix, names one and says what can be read; a misspelt mapping is not accepted."""
    with pytest.raises(NoSamples) as caught:
        await SampleIndex.build([memory(f"a/1{suffix}", f"a/2{suffix}", f"b/3{suffix}")], data_mapping=mapping)
    assert isinstance(caught.value, IndexBuildError)
    assert (caught.value.path, caught.value.source) == (f"a/1{suffix}", "data")
    text = str(caught.value)
    for detail in (f"{suffix or 'no suffix'} 3", "'data'", ".safetensors", "register_codec"):
        assert detail in text


@pytest.mark.parametrize(
    ("paths", "arguments", "detail"),
    [
        ([".hidden/a.pt", "x/.b.pt"], {}, "2 hidden"),
        (["a.jsonl"], {"content": b"\n \n"}, "1 with blank lines only"),
        (["x/a.pt", "y/b.pt"], {"data_mapping": ["x", "y"], "missing": "drop"}, "2 of samples that lack a part"),
        (["a.pt", "b.pt"], {"exclude": "*.pt"}, "2 left out by exclude"),
        (["a.pt", "b.json"], {"include": "*.npy"}, "2 not selected by include"),
    ],
)
async def test_whatever_the_reason_no_sample_is_an_error(
    paths: list[str], arguments: dict[str, Any], detail: str
) -> None:
    """The error counts hidden, empty, dropped and deselected objects separately."""
    globs: dict[str, Any] = {name: arguments.pop(name) for name in ("include", "exclude") if name in arguments}
    source = memory(**globs)
    content = arguments.pop("content", b"1")
    for path in paths:
        source.put(path, content)
    with pytest.raises(NoSamples, match=detail):
        await SampleIndex.build([source], **arguments)


async def test_what_a_source_cannot_list_is_an_error_too(tmp_path: Path) -> None:
    """A folder that holds nothing but links out of it is not an empty one."""
    (tmp_path / "root").mkdir()
    (tmp_path / "a.pt").touch()
    (tmp_path / "root" / "a.pt").symlink_to(tmp_path / "a.pt")
    async with LocalDataSource(DataSourceConfig("data", "local", tmp_path / "root")) as source:
        with pytest.raises(NoSamples, match=r"1 that link out of the root \(.pt 1"):
            await SampleIndex.build([source])


async def test_a_mapping_to_a_folder_of_unread_objects_says_so() -> None:
    """If other folders have samples, the message says what the folder contains instead of calling it unknown."""
    source = memory("latents/1.parquet", "latents/2.parquet", "conditions/1.pt")
    with pytest.raises(ConfigError, match=r"'latents'.*2 objects that no codec reads.*latents/1.parquet"):
        await SampleIndex.build([source], data_mapping=["latents", "conditions"])


async def test_a_part_that_is_missing_as_it_cannot_be_read_says_so() -> None:
    """A sample lacks its part because the part has another suffix: the error says what was left out there."""
    source = memory("x/1.pt", "x/2.pt", "y/1.pt", "y/2.csv")
    with pytest.raises(MissingPart, match=r"1 with a suffix that no codec reads \(.csv 1; first 'y/2.csv'"):
        await SampleIndex.build([source], data_mapping=["x", "y"])


async def test_a_part_of_the_objects_is_skipped_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning over all sources, by reason and suffix; the number survives saving."""
    first = memory("a.pt", "b.csv", "c.csv", "d.pt", "e.h5", "empty.jsonl", name="first")
    first.put("empty.jsonl", b"\n\n")
    second = memory("a.pt", "d.pt", "f.zip", name="second")
    with caplog.at_level(logging.WARNING, "streaming"):
        index = await SampleIndex.build([first, second])
    [message] = warnings(caplog, "objects_skipped")
    for detail in ("objects=5", "4 with a suffix that no codec reads", ".csv 2", "'b.csv'", "1 with blank lines only"):
        assert detail in message
    assert (len(index), index.skipped_objects) == (2, 5)
    index.save(tmp_path / "a.index")
    opened = SampleIndex.open(tmp_path / "a.index")
    assert opened.skipped_objects == 5
    assert opened.skips.counts["unsupported_suffix"] == {".csv": 2, ".h5": 1, ".zip": 1}


async def test_what_is_left_out_by_convention_is_counted_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Hidden objects, compressed twins and dropped samples count as skipped; objects outside the mapping or excluded
    by a glob do not."""
    source = memory(
        *("x/1.pt", "y/1.pt", "x/2.pt", "x/1.pt.zst", ".git/a", "x/.DS_Store", "media/1.mp4", "media/1.json", "README"),
        "x/note.txt",
        exclude="*.txt",
    )
    with caplog.at_level(logging.WARNING, "streaming"):
        index = await SampleIndex.build([source], data_mapping=["x", "y"], missing="drop")
    assert warnings(caplog, "objects_skipped") == []
    assert {reason: sum(suffixes.values()) for reason, suffixes in index.skips.counts.items()} == {
        "compressed_twin": 1,
        "hidden": 2,
        "missing_part": 1,
        "not_mapped": 3,
        "excluded": 1,
    }
    assert (len(index), index.skipped_objects) == (1, 4)


async def test_unread_parts_of_precomputed_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Without a mapping, media next to `.precomputed/` are expected; a folder in it without a codec is not."""
    source = memory(".precomputed/latents/1.h5", ".precomputed/conditions/1.pt", "1.avi")
    with caplog.at_level(logging.WARNING, "streaming"):
        index = await SampleIndex.build([source])
    [message] = warnings(caplog, "objects_skipped")
    assert "objects=1" in message
    assert ".h5 1" in message
    assert index.skips.counts["not_mapped"] == {".avi": 1}


async def test_copies_that_another_source_serves_are_not_skipped() -> None:
    """The objects of a mirror are in use, although no row names them."""
    paths = ("x/1.pt", "y/1.pt")
    index = await SampleIndex.build([memory(*paths, name="a"), memory(*paths, name="b")], data_mapping=["x", "y"])
    assert not index.skips


@pytest.mark.parametrize(
    ("paths", "reported"),
    [
        (["1.pt", "2.pt", "metadata.json"], ["metadata.json"]),
        (["1.pt", "2.pt", "3.pt", "x/dataset_info.json", "captions.txt"], ["x/dataset_info.json", "captions.txt"]),
        (["1.jpg", "2.jpg", "metadata.jsonl"], ["metadata.jsonl"]),
        (["1.json", "2.json", "3.json", "metadata.json"], ["metadata.json"]),
        ([*(f"{n}.pt" for n in range(40)), "a.npy", "b.npy"], ["a.npy", "b.npy"]),
        ([*(f"{n}.pt" for n in range(40)), "a.pt.zst"], []),
        ([*(f"{n}.jpg" for n in range(40)), "a.png"], []),
        (["1.pt", "2.npy", "3.json", "4.txt"], []),
        (["a/metadata.json", "b/metadata.json"], []),
        (["a/metadata.json", "a/x.pt", "b/metadata.json", "b/x.pt"], []),
    ],
)
async def test_metadata_among_samples_is_reported(
    paths: list[str], reported: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A well-known name in the minority, or a few objects of another format among many, is named in one warning."""
    with caplog.at_level(logging.WARNING, "streaming"):
        index = await SampleIndex.build([memory(*paths)])
    assert len(index) == len(paths)
    assert index.unlikely.total() == len(reported)
    messages = warnings(caplog, "unlikely_samples")
    assert len(messages) == bool(reported)
    for path in reported:
        assert f"*{Path(path).suffix}" in messages[0] or Path(path).name in messages[0].partition("exclude=")[2]


async def test_dropped_metadata_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    """What lacks a part is in no sample, so it is only counted."""
    source = memory("x/1.pt", "y/1.pt", "x/2.pt", "y/2.pt", "x/metadata.json")
    with caplog.at_level(logging.WARNING, "streaming"):
        index = await SampleIndex.build([source], data_mapping=["x", "y"], missing="drop")
    assert not caplog.records
    assert index.skipped_objects == 1


async def test_excluded_metadata_is_not_a_sample(caplog: pytest.LogCaptureFixture) -> None:
    """What the warning says to do has the effect, and other globs are another configuration."""
    paths = ("1.pt", "2.pt", "metadata.json")
    source = memory(*paths, exclude=["metadata.json"])
    with caplog.at_level(logging.WARNING, "streaming"):
        index = await SampleIndex.build([source])
    assert [index.name(i) for i in range(len(index))] == ["1", "2"]
    assert not caplog.records
    others = [memory(*paths), memory(*paths, exclude="*.json"), memory(*paths, include="*.pt")]
    assert len({configuration([each]) for each in (source, *others)}) == 4


async def test_an_object_without_samples_is_not_an_empty_source() -> None:
    """No object at all is an empty data set, also where a glob or a mapping would leave everything out."""
    for source in (memory(), memory(include="*.pt")):
        assert len(await SampleIndex.build([source], data_mapping=["anything"])) == 0
