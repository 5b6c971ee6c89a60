"""Which copy a part is read from: mirrors of one source, and sources that hold the same folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from streaming.adapter import StreamingDatasetAdapter
from streaming.copies import open_entries
from streaming.errors import ConfigError, ObjectChanged, SourceError
from streaming.resilience import Retry
from streaming.sources import LocalDataSource
from streaming.testing import Fault, FaultySource, MemorySource


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def test_what_stands_around_a_source(tmp_path: Path) -> None:
    """Local disk without a mirror stays bare, objects are taken as they are, all else can be tried again."""
    memory = MemorySource("memory")
    bare, mirrored, web, given = open_entries(
        [str(tmp_path), {"path": str(tmp_path), "mirrors": ["http://127.0.0.1:1/"]}, "http://127.0.0.1:1/", memory]
    )
    assert isinstance(bare.source, LocalDataSource)
    assert isinstance(mirrored.source, Retry)
    assert [copy.config.source_type for copy in mirrored.copies] == ["local", "http"]
    assert isinstance(web.source, Retry)
    assert given.source is memory


def test_an_unknown_constant_is_refused_with_the_nearest(tmp_path: Path) -> None:
    """A constant that is not there, or out of its range, is a ConfigError."""
    with pytest.raises(ConfigError, match="did you mean 'deadline_s'"):
        open_entries([str(tmp_path)], {"deadlines": 1})
    with pytest.raises(ConfigError, match="deadline_s=-1"):
        open_entries([str(tmp_path)], {"deadline_s": -1})


def test_a_mirror_on_disk_serves_what_the_first_copy_lost(tmp_path: Path) -> None:
    """The index is of the first copy; what vanishes there comes from the mirror."""
    first = write(tmp_path / "first", "a.bin", "b.bin")
    mirror = write(tmp_path / "mirror", "a.bin", "b.bin")
    with StreamingDatasetAdapter({"name": "data", "path": str(first), "mirrors": [str(mirror)]}) as adapter:
        assert len(adapter) == 2
        (first / "b.bin").unlink()
        assert [adapter[i]["data"] for i in range(2)] == [b"a.bin", b"b.bin"]


def test_sources_with_the_same_folders_are_copies(tmp_path: Path) -> None:
    """Each sample comes from the first source that has it, and from the other where that one fails."""
    part = write(tmp_path / "part", "latents/a.bin", "conditions/a.bin")
    names = [f"{folder}/{name}.bin" for folder in ("latents", "conditions") for name in "ab"]
    whole = write(tmp_path / "whole", *names)
    sources = [{"name": "part", "path": str(part)}, {"name": "whole", "path": str(whole)}]
    with StreamingDatasetAdapter(sources, data_mapping=["latents", "conditions"]) as adapter:
        assert len(adapter) == 2
        (part / "latents" / "a.bin").unlink()
        samples = [adapter[i] for i in range(2)]
    assert [sample["latents"] for sample in samples] == [b"latents/a.bin", b"latents/b.bin"]
    assert [sample["conditions"] for sample in samples] == [b"conditions/a.bin", b"conditions/b.bin"]


def test_a_replaced_object_of_the_same_size_is_noticed(tmp_path: Path) -> None:
    """Where listings give ETags, a read that brings another one names the object."""
    root = write(tmp_path / "data", "a.bin", "b.bin")
    with StreamingDatasetAdapter(str(root)) as adapter:
        assert len(adapter) == 2
        (root / "new").write_bytes(b"A.BIN")
        (root / "new").replace(root / "a.bin")
        with pytest.raises(ObjectChanged, match=r"'a\.bin' .* was replaced since it was indexed"):
            adapter[0]
        assert adapter[1]["data"] == b"b.bin"


def test_a_given_source_is_not_tried_again() -> None:
    """Whoever makes a source decides what stands around it: its failure is the reader's at once."""
    source = FaultySource(MemorySource("data", {"a.bin": b"a"}), [Fault(error=SourceError("planted"))])
    with StreamingDatasetAdapter(source) as adapter:
        with pytest.raises(SourceError, match="planted"):
            adapter[0]
        assert adapter[0]["data"] == b"a"
