"""Find the recordings in the repository, and unpack them into the two folders of the demo."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streaming.errors import ConfigError, ObjectNotFoundError, TruncatedData

__all__ = ["Recordings", "find_data", "unpack"]


@dataclass(frozen=True)
class Recordings:
    """Recordings laid out for the demo.

    Attributes:
        labels: folder with `NAME.json`, one small object each: page, page_id, events, duration_s.
        events: folder with `NAME.json`, one array of rrweb events each.
        pages: kinds of page, sorted; `page_id` is the place in this list.
        names: names of the recordings, sorted.
        total_bytes: size of all events.
    """

    labels: Path
    events: Path
    pages: list[str]
    names: list[str]
    total_bytes: int


def find_data(given: Path | None = None) -> Path:
    """Return the folder with the recordings: the given one, else `examples/data` of the checkout.

    The checkout is searched from the current folder upwards, then next to the installed package.

    Raises:
        ConfigError: the folder or its MANIFEST.json was not found.
    """
    here = Path.cwd()
    roots = [here, *here.parents, Path(__file__).resolve().parents[3]]
    places = [given] if given else [root / "examples" / "data" for root in roots]
    for place in places:
        if (place / "MANIFEST.json").is_file():
            return place
    looked = f"{given}" if given else f"examples/data under {here} and above"
    raise ConfigError(
        f"no recordings for the demo: looked for MANIFEST.json in {looked}. "
        "Run it in a clone of the repository, or name the folder with --data DIR"
    )


def unpack(data: Path, target: Path) -> Recordings:
    """Unpack the recordings of `data` under `target`.

    Raises:
        ConfigError: the manifest cannot be used.
        ObjectNotFoundError: a recording in the manifest is missing.
        TruncatedData: a recording does not match its checksum.
    """
    rows = _manifest_rows(data)
    pages = sorted({str(row["page"]) for row in rows})
    labels, events = target / "labels", target / "events"
    labels.mkdir()
    events.mkdir()
    total = 0
    for row in rows:
        name = Path(row["file"]).name.removesuffix(".json.zst") + ".json"
        content = _read_recording(data, row)
        total += (events / name).write_bytes(content)
        label = {"page": row["page"], "page_id": pages.index(row["page"])}
        (labels / name).write_text(json.dumps(label | {key: row[key] for key in ("events", "duration_s")}))
    return Recordings(labels, events, pages, sorted(path.stem for path in events.iterdir()), total)


def _manifest_rows(data: Path) -> list[dict[str, Any]]:
    path = data / "MANIFEST.json"
    try:
        rows = json.loads(path.read_bytes())["recordings"]
        if rows and all({"file", "page", "events", "duration_s", "bytes", "sha256"} <= set(row) for row in rows):
            return list(rows)
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"{path}: not a manifest of recordings ({exc}); compare with the repository's") from exc
    raise ConfigError(f"{path}: lists no recordings, or lacks their page, size or checksum")


def _read_recording(data: Path, row: dict[str, Any]) -> bytes:
    import zstandard

    path = data / row["file"]
    try:
        content = zstandard.ZstdDecompressor().decompress(path.read_bytes(), max_output_size=row["bytes"])
    except FileNotFoundError as exc:
        raise ObjectNotFoundError(
            f"{path}: listed in MANIFEST.json, but missing; restore it with git checkout"
        ) from exc
    except zstandard.ZstdError as exc:
        raise TruncatedData(f"{path}: not a whole zstd file ({exc}); restore it with git checkout") from exc
    if hashlib.sha256(content).hexdigest() != row["sha256"]:
        raise TruncatedData(f"{path}: its checksum is not that of MANIFEST.json; restore it with git checkout")
    return content
