from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from streaming.cli.demo.recordings import find_data, unpack
from streaming.errors import ConfigError, ObjectNotFoundError, StreamingError, TruncatedData

SHIPPED = Path(__file__).resolve().parents[3] / "examples" / "data"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder like `examples/data` with two recordings, to be damaged."""
    manifest = json.loads((SHIPPED / "MANIFEST.json").read_text())
    folder = tmp_path / "data"
    (folder / "recordings").mkdir(parents=True)
    manifest["recordings"] = sorted(manifest["recordings"], key=lambda row: row["bytes"])[:2]
    for row in manifest["recordings"]:
        shutil.copy(SHIPPED / row["file"], folder / row["file"])
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    return folder


def _damage(folder: Path, change: str) -> Path:
    rows = json.loads((folder / "MANIFEST.json").read_text())
    first: Path = folder / rows["recordings"][0]["file"]
    if change == "missing":
        first.unlink()
    elif change == "cut":
        first.write_bytes(first.read_bytes()[:100])
    elif change == "another":
        shutil.copy(folder / rows["recordings"][1]["file"], first)
        rows["recordings"][0]["bytes"] = rows["recordings"][1]["bytes"]
        (folder / "MANIFEST.json").write_text(json.dumps(rows))
    return first


def test_shipped_recordings_unpack_whole(tmp_path: Path) -> None:
    """Every shipped recording unpacks to JSON with the number of events that its label and the manifest give."""
    recordings = unpack(SHIPPED, tmp_path)
    assert len(recordings.names) == len(list(recordings.labels.iterdir())) >= 40
    for name in recordings.names:
        label = json.loads((recordings.labels / f"{name}.json").read_text())
        events = json.loads((recordings.events / f"{name}.json").read_text())
        assert len(events) == label["events"]
        assert recordings.pages[label["page_id"]] == label["page"]
        assert name.startswith("fix_") if label["page"] == "fixture" else label["page"] in name
    assert recordings.total_bytes == sum(path.stat().st_size for path in recordings.events.iterdir())


def test_notices_cover_what_is_shipped() -> None:
    """Each recording carries its licence in the manifest, and the notices name every origin."""
    rows = json.loads((SHIPPED / "MANIFEST.json").read_text())["recordings"]
    assert {row["licence"] for row in rows} == {"own work", "MIT, rrweb-io/rrweb"}
    notices = (SHIPPED / "THIRD_PARTY.md").read_text()
    assert all(text in notices for text in ("rrweb-io/rrweb", "Bootstrap", "Permission is hereby granted"))


@pytest.mark.parametrize(
    ("change", "kind"), [("missing", ObjectNotFoundError), ("cut", TruncatedData), ("another", TruncatedData)]
)
def test_damaged_recording_is_named(small: Path, tmp_path: Path, change: str, kind: type[StreamingError]) -> None:
    """A recording that is missing, cut short or replaced is refused by name."""
    first = _damage(small, change)
    (tmp_path / "out").mkdir()
    with pytest.raises(kind, match=first.name):
        unpack(small, tmp_path / "out")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"recordings": []}', '{"recordings": [{"file": "x"}]}'])
def test_bad_manifest_is_refused(tmp_path: Path, text: str) -> None:
    """A manifest that is not JSON, or lists nothing usable, is a configuration error that names it."""
    (tmp_path / "MANIFEST.json").write_text(text)
    with pytest.raises(ConfigError, match=r"MANIFEST\.json"):
        unpack(tmp_path, tmp_path)


def test_data_is_found_from_the_checkout_and_by_name(small: Path) -> None:
    """Without a folder given the checkout's data are found, and a given folder is taken."""
    assert find_data() == SHIPPED
    assert find_data(small) == small


def test_missing_data_says_what_to_do(tmp_path: Path) -> None:
    """A folder without recordings is a configuration error that mentions --data."""
    with pytest.raises(ConfigError, match="--data DIR"):
        find_data(tmp_path)
