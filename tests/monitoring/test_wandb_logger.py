"""Tests of the Weights & Biases logger: what it logs, to which run, and that its failures never stop training."""

from __future__ import annotations

import copy
import io
import logging
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from torch.utils.data import DataLoader

from streaming.adapter import StreamingDatasetAdapter
from streaming.core import logs
from streaming.errors import ConfigError, MissingExtra
from streaming.loader.data_loader import StreamingDataLoader
from streaming.monitoring.wandb_logger import WandbLogger
from streaming.telemetry.stages import STAGES
from streaming.telemetry.stalls import monitor_stalls
from streaming.testing import MemorySource

SAMPLES = 40


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Run:
    """Takes what a run of wandb takes; fails while `error` is set."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls = 0
        self.logged: list[tuple[dict[str, float], int | None]] = []
        self.axes: list[tuple[str, str | None]] = []

    def log(self, numbers: dict[str, float], step: int | None = None) -> None:
        self.calls += 1
        if self.error is not None:
            raise copy.copy(self.error)  # which holds the frames that it passed
        self.logged.append((numbers, step))

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes.append((name, step_metric))


@pytest.fixture
def adapter() -> Iterator[StreamingDatasetAdapter]:
    stream = io.BytesIO()
    np.save(stream, np.arange(100))
    objects = {f"{number:03}.npy": stream.getvalue() for number in range(SAMPLES)}
    with StreamingDatasetAdapter([MemorySource("data", objects)]) as made:
        yield made


@pytest.fixture
def loader(adapter: StreamingDatasetAdapter) -> StreamingDataLoader:
    return StreamingDataLoader(adapter, batch_size=2)


@pytest.fixture
def clock() -> Clock:
    return Clock()


# -- what is logged


def test_a_window_of_steps_is_logged(loader: StreamingDataLoader, clock: Clock) -> None:
    """Time for data and for a step, its shares by stage, hits, bytes, memory and place, over the window alone."""
    run = Run()
    tracker = WandbLogger(loader, run, every=10, clock=clock)
    for _ in tracker:
        clock.now += 1
    (first, _), (second, _) = run.logged
    assert [numbers["streaming/step"] for numbers in (first, second)] == [10, 20]
    waited, whole = first["streaming/data_time_seconds"], first["streaming/step_time_seconds"]
    assert 0 < waited <= first["streaming/data_time_max_seconds"] <= 10 * waited
    assert first["streaming/wait_share"] == pytest.approx(waited / whole)
    shares = [first[f"streaming/wait_share_{stage}"] for stage in STAGES]
    assert sum(shares) == pytest.approx(first["streaming/wait_share"])
    assert first["streaming/samples_per_second"] == pytest.approx(20 / 9)
    assert second["streaming/samples_per_second"] == pytest.approx(2)
    assert second["streaming/fetched_bytes_per_second"] >= 0
    assert first["streaming/resident_memory_bytes"] > 1e6
    assert (first["streaming/epoch"], first["streaming/position"], first["streaming/hit_ratio"]) == (0, 20, 0)
    assert (second["streaming/epoch"], second["streaming/position"]) == (1, 0)


def test_hits_are_those_of_the_window(loader: StreamingDataLoader, clock: Clock) -> None:
    """A second epoch from the cache has only hits, whatever the first one had; counts set back harm nothing."""
    run = Run()
    tracker = WandbLogger(loader, run, every=20, prefix="data/", clock=clock)
    for epoch in range(3):
        for _ in tracker:
            clock.now += 1
        if epoch == 1:
            loader.dataset.reset_metrics()  # type: ignore[attr-defined]
    assert [numbers["data/hit_ratio"] for numbers, _ in run.logged] == [0, 1, 1]
    assert run.logged[1][0]["data/fetched_bytes_per_second"] == 0


def test_numbers_have_steps_of_their_own_or_the_trainers(loader: StreamingDataLoader, clock: Clock) -> None:
    """Without a step they are drawn over a step of theirs, said once; with one they share it."""
    run = Run()
    tracker = WandbLogger(loader, run, every=5, clock=clock)
    for number, _ in enumerate(loader):
        clock.now += 1
        tracker.step(None if number < 10 else 1000 + number)
    assert [step for _, step in run.logged] == [None, None, 1014, 1019]
    assert run.axes == [("streaming/step", None), ("streaming/*", "streaming/step")]
    assert ["streaming/step" in numbers for numbers, _ in run.logged] == [True, True, False, False]


def test_fast_steps_are_logged_once_a_second(loader: StreamingDataLoader, clock: Clock) -> None:
    """However short a window's steps are; closing logs the rest, once."""
    run = Run()
    with WandbLogger(loader, run, every=1, clock=clock) as tracker:
        for _ in tracker:
            clock.now += 0.25
        assert (len(run.logged), len(tracker)) == (5, 20)
    tracker.close()
    assert [numbers["streaming/step"] for numbers, _ in run.logged] == [1, 5, 9, 13, 17, 20]


def test_any_loader_that_is_watched(clock: Clock) -> None:
    """A plain DataLoader over plain data has waits, and no cache."""
    run = Run()
    data: Any = list(range(8))
    watched = monitor_stalls(DataLoader(data, batch_size=2))
    for _ in WandbLogger(watched, run, every=4, clock=clock):
        clock.now += 1
    [(numbers, _)] = run.logged
    assert numbers["streaming/data_time_seconds"] > 0
    assert "streaming/hit_ratio" not in numbers


def test_what_keeps_no_account_is_refused(loader: StreamingDataLoader) -> None:
    """With what to give instead; and a window has steps."""
    data: Any = [1]
    plain: Any = DataLoader(data)
    with pytest.raises(ConfigError, match=r"streaming\.monitor_stalls"):
        WandbLogger(plain, Run())
    with pytest.raises(ConfigError, match="every=0"):
        WandbLogger(loader, Run(), every=0)


# -- what fails


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("run is finished")])
def test_a_run_that_fails_is_warned_of_once(
    error: Exception, loader: StreamingDataLoader, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Training continues; it is tried again after a minute, then two, and recovers automatically."""
    run = Run(error)
    tracker = WandbLogger(loader, run, every=1, clock=clock)
    with caplog.at_level(logging.INFO, "streaming"):
        for _ in range(5):
            for _ in tracker:
                clock.now += 5
    assert run.calls == 4  # after 0, 60, 180 and 420 of 500 s
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert logs.parse(record.getMessage()) == {
        "event": "wandb_log_failed",
        "error": f"{type(error).__name__}: {error}",
        "retry_seconds": 60,
    }
    run.error = None
    clock.now += 1000
    for _ in tracker:
        clock.now += 5
    assert len(run.logged) == 20
    assert len(caplog.records) == 1


def test_a_closed_data_set_is_not_an_error(
    adapter: StreamingDatasetAdapter, loader: StreamingDataLoader, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Numbers that cannot be read are a warning, not an error in the trainer."""
    run = Run()
    tracker = WandbLogger(loader, run, every=1, clock=clock)
    adapter.close()
    tracker.step()
    tracker.close()
    assert [logs.parse(record.getMessage())["event"] for record in caplog.records] == ["wandb_log_failed"]
    assert run.logged == []


# -- wandb itself


def test_nothing_imports_wandb() -> None:
    """It is imported only to make a run; without a run a tracker does nothing."""
    code = "import streaming, streaming.monitoring.wandb_logger, sys; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_wandb_only_making_a_run_fails(
    loader: StreamingDataLoader, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`create` names the extra in its error; otherwise batches come, and one line says that nothing is logged."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtra, match=r"aiprod-streaming\[wandb\]"):
        WandbLogger.create(loader)
    caplog.set_level(logging.INFO, "streaming")
    tracker = WandbLogger(loader, every=1, clock=clock)
    for _ in tracker:
        clock.now += 10
    tracker.close()
    assert [record.getMessage() for record in caplog.records] == ["wandb_no_active_run reason=no_run"]


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """wandb as on a machine without network; its background process ends with the test."""
    for name in ("WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}.items():
        monkeypatch.setenv(name, value)
    yield tmp_path
    end_wandb()


def end_wandb() -> None:
    """End the process that writes wandb's files, which begins with the first run; none is written afterwards."""
    import wandb

    writers = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
    wandb.teardown()
    assert psutil.wait_procs(writers, timeout=60)[1] == []


def written(folder: Path) -> list[dict[str, Any]]:
    """The history in the file of the one run below a folder, a log of LevelDB's form whose records are protobuf."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    end_wandb()  # a run that has finished may still be on its way to the file
    [path] = folder.rglob("run-*.wandb")
    data, at, record, rows = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block that no head fits in
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            parsed = Record.FromString(record)
            record = b""
            if parsed.WhichOneof("record_type") == "history":
                items = parsed.history.item
                rows.append({item.key or "/".join(item.nested_key): item.value_json for item in items})
    return rows


def test_windows_in_a_real_run(
    offline: Path, loader: StreamingDataLoader, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The active run has each window next to the trainer's own numbers, which keep their own steps."""
    import wandb

    with wandb.init(project="test", dir=str(offline)) as run:
        for number, _ in enumerate(WandbLogger(loader, every=5, clock=clock)):
            clock.now += 1
            run.log({"loss": number / 2}, step=7 * number)
    assert caplog.messages == []
    rows = written(offline)
    ours = [row for row in rows if "streaming/step" in row]
    assert [row["streaming/step"] for row in ours] == ["5", "10", "15", "20"]
    assert all(float(row["streaming/data_time_seconds"]) > 0 for row in ours)
    assert [row["loss"] for row in rows if "loss" in row] == [f"{number / 2:g}" for number in range(20)]


def test_a_real_run_of_the_trackers_own(offline: Path, loader: StreamingDataLoader) -> None:
    """It begins with the tracker and ends with it; what came since the last window is logged before."""
    with WandbLogger.create(loader, project="test", dir=str(offline)) as tracker:
        import wandb

        assert wandb.run is not None
        assert sum(1 for _ in tracker) == 20
    assert wandb.run is None
    [row] = written(offline)
    assert (row["streaming/step"], row["streaming/epoch"]) == ("20", "1")


def test_a_real_run_that_was_finished(
    offline: Path, loader: StreamingDataLoader, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Once it has ended, one warning is all."""
    import wandb

    run = wandb.init(project="test", dir=str(offline))
    for number, _ in enumerate(WandbLogger(loader, run, every=1, clock=clock)):
        clock.now += 2
        if number == 3:
            run.finish()
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("streaming")]
    assert [logs.parse(message)["event"] for message in messages] == ["wandb_log_failed"]
    assert len(written(offline)) == 4
