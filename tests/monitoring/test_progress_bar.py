"""The progress bar: where it starts, what it shows, that it moves while nothing else does, and that it ends."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from streaming.adapter import StreamingDatasetAdapter
from streaming.core import logs
from streaming.errors import ConfigError
from streaming.loader.data_loader import StreamingDataLoader
from streaming.monitoring.progress_bar import progress_bar
from streaming.order.batching import SequencePacking
from streaming.sources.base import Blob, DataSource, FileInfo
from streaming.telemetry.stalls import monitor_stalls
from streaming.testing import MemorySource

SAMPLES = 40
LONG_S = 30.0
"""How long a test waits for what should come at once."""


def plain_loader(data: Any) -> DataLoader[Any]:
    """A DataLoader of torch's over a list."""
    return DataLoader(data)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Screen(io.StringIO):
    """A stream that may be a terminal, with an event for an expected text."""

    def __init__(self, is_terminal: bool = True) -> None:
        super().__init__()
        self._is_terminal = is_terminal
        self._changed = threading.Condition()

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> int:
        with self._changed:
            self._changed.notify_all()
            return super().write(text)

    def shows(self, text: str, times: int = 1) -> bool:
        """Wait until it was written so often."""
        with self._changed:
            return self._changed.wait_for(lambda: self.getvalue().count(text) >= times, LONG_S)

    @property
    def last(self) -> str:
        return self.getvalue().rstrip().replace("\n", "\r").split("\r")[-1]


class Gated(DataSource):
    """Objects in memory, of which one is not given until the gate opens."""

    def __init__(self, objects: dict[str, bytes], shut: str) -> None:
        self._objects = MemorySource("data", objects)
        super().__init__(self._objects.config)
        self._shut = shut
        self.gate = threading.Event()

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        if path == self._shut:
            await asyncio.to_thread(self.gate.wait, LONG_S)
        return await self._objects.read(path, start, end)

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        async for info in self._objects.iter_files(prefix):
            yield info

    async def aclose(self) -> None:
        await self._objects.aclose()


def objects() -> dict[str, bytes]:
    stream = io.BytesIO()
    np.save(stream, np.arange(10))
    return {f"{number:03}.npy": stream.getvalue() for number in range(SAMPLES)}


@pytest.fixture
def adapter() -> Iterator[StreamingDatasetAdapter]:
    with StreamingDatasetAdapter([MemorySource("data", objects())]) as made:
        yield made


@pytest.fixture
def loader(adapter: StreamingDatasetAdapter) -> StreamingDataLoader:
    return StreamingDataLoader(adapter, batch_size=2)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def tickers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "streaming-progress"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert tickers() == []


# -- what it shows


def test_a_whole_epoch(loader: StreamingDataLoader) -> None:
    """All batches come; at the end the bar is full and says how much was waited for what, and the hits."""
    screen = Screen()
    bar = progress_bar(loader, stream=screen)
    assert len(bar) == 20
    assert sum(1 for _ in bar) == 20
    assert "epoch 0: 100%" in screen.last
    assert " 20/20 [" in screen.last
    assert "wait " in screen.last
    assert "hit 0%" in screen.last
    assert sum(1 for _ in bar) == 20
    assert "epoch 1: 100%" in screen.last
    assert "hit 100%" in screen.last


def test_after_a_resume_it_begins_where_the_run_was(adapter: StreamingDatasetAdapter) -> None:
    """The bar counts batches or samples, and the rest of the epoch follows."""
    for unit, first, whole in (("batch", " 7/20 [", " 20/20 ["), ("sample", " 14/40 [", " 40/40 [")):
        before = StreamingDataLoader(adapter, batch_size=2)
        batches = iter(before)
        for _ in range(7):
            next(batches)
        after = StreamingDataLoader(adapter, batch_size=2)
        after.load_state_dict(before.state_dict())
        screen = Screen()
        steps = iter(progress_bar(after, unit, stream=screen))  # type: ignore[arg-type]
        next(steps)
        assert screen.shows("epoch 0")
        assert first in screen.getvalue()
        assert sum(1 for _ in steps) == 12
        assert whole in screen.last


def test_packs_and_other_loaders(adapter: StreamingDatasetAdapter) -> None:
    """Packs count as one each; a monitored DataLoader has no position to resume from, but has waits."""
    packs = StreamingDataLoader(
        adapter, batch_size=2, batching=SequencePacking([10] * SAMPLES, 20), collate_fn=len, drop_last=True
    )
    screen = Screen()
    assert sum(1 for _ in progress_bar(packs, "sample", stream=screen)) == len(packs)
    assert "100%" in screen.last
    screen = Screen()
    assert sum(1 for _ in progress_bar(monitor_stalls(plain_loader([1, 2, 3])), stream=screen, desc="plain")) == 3
    assert "plain: 100%" in screen.last
    assert "hit" not in screen.last


def test_samples_are_counted_as_they_are_handed_out(loader: StreamingDataLoader) -> None:
    """Over all ranks, up to the last batch, after which the loader is in its next epoch."""
    screen = Screen()
    steps = iter(progress_bar(loader, "sample", stream=screen, every_s=0.01))
    for _ in range(5):
        next(steps)
    assert screen.shows(" 10/40 [")
    for _ in range(15):
        next(steps)
    assert screen.shows(" 40/40 [")
    steps.close()  # type: ignore[attr-defined]


# -- it moves while nothing else does


def test_it_says_what_is_waited_for(clock: Clock) -> None:
    """While a source does not answer, the seconds and the elapsed time move, and the count stays."""
    source = Gated(objects(), "010.npy")
    screen = Screen()
    with StreamingDatasetAdapter([source]) as adapter:
        loader = StreamingDataLoader(adapter, batch_size=2)
        trainer = threading.Thread(
            target=lambda: [None for _ in progress_bar(loader, stream=screen, every_s=0.01, clock=clock)]
        )
        trainer.start()
        assert screen.shows(" 5/20 [")
        clock.now += 12
        assert screen.shows("waiting for source 12 s")
        clock.now += 60
        assert screen.shows("waiting for source 72 s")
        assert " 5/20 [01:12<" in screen.last
        source.gate.set()
        trainer.join(LONG_S)
    assert " 20/20 [01:12<" in screen.last
    assert "waiting" not in screen.last


def test_a_long_step_is_lines_of(loader: StreamingDataLoader, clock: Clock) -> None:
    """While the trainer computes, or saves a checkpoint, time moves."""
    screen = Screen()
    steps = iter(progress_bar(loader, stream=screen, every_s=0.01, clock=clock))
    for seconds in (0, 33):
        next(steps)
        clock.now += seconds
    assert screen.shows("in step for 33 s")
    assert " 1/20 [00:33<" in screen.last
    next(steps)
    steps.close()  # type: ignore[attr-defined]


def test_a_fast_phase_does_not_slow_it(loader: StreamingDataLoader, clock: Clock) -> None:
    """After many steps at once a single one is shown as soon."""
    screen = Screen()
    steps = iter(progress_bar(loader, stream=screen, every_s=0.01, clock=clock))
    for _ in range(16):
        next(steps)
    assert screen.shows(" 15/20 [")
    clock.now += 3600
    next(steps)
    assert screen.shows(" 16/20 [")
    steps.close()  # type: ignore[attr-defined]


# -- it ends


def test_the_thread_ends_with_the_bar(loader: StreamingDataLoader) -> None:
    """After an error in the trainer, a break, a close, and when the iteration is forgotten."""

    def fail() -> None:
        for _ in progress_bar(loader, stream=Screen()):
            assert len(tickers()) == 1
            raise ValueError("in the trainer")

    with pytest.raises(ValueError, match="in the trainer"):
        fail()
    gc.collect()  # the traceback held the iteration
    assert tickers() == []
    for _ in progress_bar(loader, stream=Screen()):
        break
    gc.collect()
    assert tickers() == []
    steps: Any = iter(progress_bar(loader, stream=Screen()))
    next(steps)
    steps.close()
    assert tickers() == []
    steps = iter(progress_bar(loader, stream=Screen()))
    next(steps)
    del steps
    gc.collect()


def test_an_error_of_the_data_ends_it(adapter: StreamingDatasetAdapter) -> None:
    """The error is raised unchanged."""

    def fail(samples: Any) -> Any:
        raise KeyError("no such part")

    with pytest.raises(KeyError, match="no such part"):
        list(progress_bar(StreamingDataLoader(adapter, collate_fn=fail), stream=Screen()))


def test_a_stream_that_cannot_be_written_is_warned_of(
    loader: StreamingDataLoader, caplog: pytest.LogCaptureFixture
) -> None:
    """Training continues without a bar."""

    class Full(Screen):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    assert sum(1 for _ in progress_bar(loader, stream=Full())) == 20
    lines = [logs.parse(record.getMessage()) for record in caplog.records if record.name.startswith("streaming")]
    assert [(pairs["event"], pairs["error"][:10]) for pairs in lines] == [("progress_failed", "OSError: [")]
    assert caplog.records[0].levelno == logging.WARNING


def test_a_stream_that_blocks_does_not_delay_a_step(loader: StreamingDataLoader) -> None:
    """No step waits for it; the end of the epoch waits two seconds."""
    taken = threading.Event()

    class Stuck(Screen):
        def write(self, text: str) -> int:
            taken.wait(LONG_S)
            return len(text)

    assert sum(1 for _ in progress_bar(loader, stream=Stuck())) == 20
    [ticker] = tickers()
    taken.set()
    ticker.join(LONG_S)


def test_a_closed_data_set_still_has_a_bar(adapter: StreamingDatasetAdapter, loader: StreamingDataLoader) -> None:
    """Numbers that cannot be read any more are left out."""
    screen = Screen()
    steps = iter(progress_bar(loader, stream=screen, every_s=0.01))
    next(steps)
    adapter.close()
    assert screen.shows("epoch 0", screen.getvalue().count("epoch 0") + 2)
    steps.close()  # type: ignore[attr-defined]


# -- without a terminal


@pytest.mark.parametrize("environment", [{}, {"RANK": "3"}])
def test_silence_on_other_ranks(
    environment: dict[str, str], loader: StreamingDataLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given, or that of the environment for a loader that knows no rank."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    screen = Screen()
    steps = (
        progress_bar(monitor_stalls(plain_loader([1, 2])), stream=screen)
        if environment
        else progress_bar(loader, stream=screen, rank=1, plain_every_s=1)
    )
    assert sum(1 for _ in steps) == len(steps)
    assert screen.getvalue() == ""


def test_silence_where_there_is_no_terminal(loader: StreamingDataLoader, capsys: pytest.CaptureFixture[str]) -> None:
    """No control characters in a log file."""
    assert sum(1 for _ in progress_bar(loader)) == 20
    assert capsys.readouterr() == ("", "")


def test_plain_lines_where_there_is_no_terminal(loader: StreamingDataLoader, clock: Clock) -> None:
    """On request: one per interval, each complete, and one at the end."""
    screen = Screen(is_terminal=False)
    steps = iter(progress_bar(loader, stream=screen, plain_every_s=0.01, clock=clock))
    next(steps)
    clock.now += 90
    next(steps)
    assert screen.shows("epoch 0: 5% 1/20 01:30<")
    assert sum(1 for _ in steps) == 18
    assert screen.last.startswith("epoch 0: 100% 20/20 01:30<00:00")
    assert "\r" not in screen.getvalue()


@pytest.mark.parametrize(
    ("make", "unit", "text"),
    [
        (lambda: plain_loader([1]), "batch", "streaming.monitor_stalls"),
        (lambda: monitor_stalls(plain_loader([1])), "sample", "give 'batch'"),
        (lambda: monitor_stalls(plain_loader([1])), "bytes", "unit='bytes'"),
    ],
)
def test_what_cannot_be_counted_is_refused(make: Any, unit: Any, text: str) -> None:
    """With what to give instead."""
    with pytest.raises(ConfigError, match=text):
        progress_bar(make(), unit)
