"""How large is an index, how fast does it open, and how long does it take to build?

"bytes beyond the path" does not count the paths of the objects. The listing of 1,000,000 objects is generated; that of
31,951 files is real: empty files in a temporary folder, walked by this library and by bare `os.scandir`.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import report

from streaming.core.source_config import DataSourceConfig
from streaming.index import SampleIndex
from streaming.sources.base import FileInfo
from streaming.sources.local.source import LocalDataSource
from streaming.testing import MemorySource

MANY = 1_000_000
FILES = 31_951


class ListedSource(MemorySource):
    """A source with only a listing: two parts of `samples` samples, 1,000 files per folder."""

    def __init__(self, samples: int, layout: str) -> None:
        super().__init__(layout)
        self.paths_bytes = 0
        self._samples, self._layout = samples, layout

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        self.paths_bytes = 0
        for part in ("latent", "condition"):
            for number in range(self._samples):
                path = self._path(part, number)
                self.paths_bytes += len(path)
                yield FileInfo(path, 100_000 + number % 1000, f"{number:x}-{part}")

    def _path(self, part: str, number: int) -> str:
        if self._layout == "a folder each":
            return f"{part}s/session-{number:09d}/0.pt"
        return f"{part}s/{number // 1000:04d}/{part}_{number:07d}.pt"


def measure_size(layout: str, samples: int, path: Path) -> dict[str, float]:
    """Build and save an index of a generated listing with two objects per sample."""
    source = ListedSource(samples, layout)
    started = time.perf_counter()
    index = asyncio.run(SampleIndex.build([source], data_mapping=["latents", "conditions"]))
    seconds = time.perf_counter() - started
    index.save(path)
    objects = 2 * samples
    assert len(index) == samples
    return {
        "bytes_beyond_path": (path.stat().st_size - source.paths_bytes) / objects,
        "bytes_in_all": path.stat().st_size / objects,
        "build_objects_per_second": objects / seconds,
    }


def open_and_read(path: Path) -> None:
    """Open a warm index, and read the first and last sample."""
    index = SampleIndex.open(path)
    index.rows(0)
    index.rows(len(index) - 1)


def rows_us(path: Path, count: int = 200_000) -> float:
    """Return the microseconds of `rows` for two parts, over scattered samples."""
    index = SampleIndex.open(path)
    places = [number * 7919 % len(index) for number in range(count)]
    rows = index.rows
    started = time.perf_counter()
    for place in places:
        rows(place)
    return (time.perf_counter() - started) / count * 1e6


def walk(folder: str) -> int:
    """Walk the files without the library: name, size and time of each."""
    count = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                count += walk(entry.path)
            else:
                entry.stat(follow_symlinks=False)
                count += 1
    return count


def measure_files(root: Path, path: Path, repeats: int) -> dict[str, object]:
    """Index real files, vs. a bare walk."""
    for number in range(FILES):
        if number % 1000 == 0:
            (root / f"part-{number // 1000:03d}").mkdir()
        (root / f"part-{number // 1000:03d}" / f"session_{number:05d}.json").touch()

    def scan() -> None:
        assert walk(str(root)) == FILES

    def build() -> None:
        source = LocalDataSource(DataSourceConfig("files", "local", root))
        asyncio.run(SampleIndex.build([source])).save(path)

    times = report.interleaved(repeats, {"scandir": scan, "index": build})
    return {
        "bytes": path.stat().st_size,
        "build_seconds": report.spread(times["index"]),
        "build_over_scandir": report.ratio(times["index"], times["scandir"]),
    }


def main() -> None:
    """Measure, print a table, and one line of JSON."""
    arguments = report.options(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, root = Path(folder) / "index", Path(folder) / "files"
        root.mkdir()
        figures: dict[str, object] = {"files_31951": measure_files(root, path, arguments.repeats)}
        for layout in ("a folder each", "1,000 to a folder"):
            figures[layout] = measure_size(layout, MANY // 2, path)
        opens = report.interleaved(max(arguments.repeats, 5), {"open": lambda: open_and_read(path)})["open"]
        figures["warm_open_seconds_1000000"] = report.spread(opens)
        times = report.interleaved(arguments.repeats, {"rows": lambda: rows_us(path)})["rows"]
        figures["rows_microseconds"] = report.spread(times)
    report.table("index", [("figure", "value"), *_flat(figures)])
    report.emit("index", figures, seed=arguments.seed)


def _flat(figures: dict[str, object], before: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for name, figure in figures.items():
        rows += _flat(figure, f"{before}{name} ") if isinstance(figure, dict) else [(before + name, figure)]
    return rows


if __name__ == "__main__":
    main()
