"""Waits of a trainer by stage agree with injected delays."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any

import pytest
import torch
import zstandard
from torch.utils.data import DataLoader

from streaming.adapter import StreamingDatasetAdapter
from streaming.errors import PrepareError
from streaming.loader.data_loader import StreamingDataLoader
from streaming.telemetry.stages import STAGES
from streaming.telemetry.stalls import MonitoredLoader, StallAccount, default_stage, monitor_stalls
from tests import planted
from tests.calm import calmly
from tests.planted import Pausing, SlowSource

TOLERANCE = 0.05  # of the whole wait

# Long compared with what a busy machine adds to each step.
SCENARIOS: dict[str, dict[str, float]] = {
    "source": {"source": 0.12},
    "decode": {"decode": 0.08},
    "prepare": {"prepare": 0.08},
    "transform": {"transform": 0.08},
    "collate": {"collate": 0.08},
    "source and decode": {"source": 0.08, "decode": 0.04},
    "transform and collate": {"transform": 0.032, "collate": 0.08},
    "all at once": {"source": 0.08, "decode": 0.04, "prepare": 0.06, "transform": 0.032, "collate": 0.048},
}


@pytest.fixture(autouse=True)
def _fresh_delays() -> Iterator[None]:
    planted.SECONDS.clear()
    yield
    planted.decode_takes(0.0)


def _adapter(delays: dict[str, float], samples: int, **options: Any) -> StreamingDatasetAdapter:
    planted.decode_takes(delays.get("decode", 0.0))
    source = SlowSource(samples, delays.get("source", 0.0))
    functions: dict[str, Any] = {
        stage: Pausing(stage, delays[stage]) for stage in ("prepare", "transform") if stage in delays
    }
    settings = {"enable_prefetch": False, "decode_threads": 1, "cache_size_gb": 0.01, **functions, **options}
    return StreamingDatasetAdapter([source], {"slow": "x"}, **settings)


def _options(delays: dict[str, float]) -> dict[str, Any]:
    return {"collate_fn": Pausing("collate", delays["collate"])} if "collate" in delays else {}


def _run(batches: Iterator[Any], busy_s: float = 0.002) -> tuple[float, list[Any]]:
    """How long `next` took in all, as the trainer sees it, and the batches."""
    waited, got = 0.0, list[Any]()
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return waited, got
        waited += time.perf_counter() - began
        got.append(batch)
        time.sleep(busy_s)  # the trainer at work: part of what is measured


def _measured(
    delays: dict[str, float], samples: int, settings: dict[str, Any] | None = None, **options: Any
) -> tuple[StallAccount, float, list[Any]]:
    """The account of an epoch with these delays, how long the trainer saw itself wait, and the batches."""

    def epoch() -> tuple[StallAccount, float, list[Any]]:
        planted.SECONDS.clear()
        with _adapter(delays, samples, **(settings or {})) as adapter:
            loader = StreamingDataLoader(adapter, **options, **_options(delays))
            return loader.stalls, *_run(iter(loader), busy_s=0.0 if loader.num_workers else 0.002)

    return calmly(epoch)


def _assert_agrees(stalls: StallAccount, waited: float, oracle: dict[str, float]) -> None:
    """Every stage is within 5 % of the whole wait, and the stages together are the wait."""
    found = stalls.wait_seconds
    assert sum(found.values()) == pytest.approx(waited, rel=TOLERANCE)
    for stage, seconds in oracle.items():
        assert found[stage] == pytest.approx(seconds, abs=TOLERANCE * waited), (stage, found)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_wait_is_split_by_stage(name: str) -> None:
    """Without workers, the wait for each stage equals its real delays."""
    delays = SCENARIOS[name]
    stalls, waited, batches = _measured(delays, 12)
    assert len(batches) == 12
    _assert_agrees(stalls, waited, {stage: sum(planted.SECONDS[stage]) for stage in delays})


@pytest.mark.parametrize("name", ["source", "prepare", "transform", "collate", "all at once"])
def test_a_wait_for_workers_is_split_by_stage(name: str) -> None:
    """Batches from workers bring their stages along: the waits have the proportions of the delays."""
    delays = SCENARIOS[name]
    stalls, waited, batches = _measured(delays, 32, batch_size=2, num_workers=2)
    made = {
        "source": sum(planted.SECONDS["source"]) / 2,  # both samples of a batch are on their way side by side
        "decode": sum(planted.SECONDS["decode"]),
        "prepare": sum(planted.SECONDS["prepare"]),
        "transform": sum(float(batch["transform_s"].sum()) for batch in batches) if "transform" in delays else 0.0,
        "collate": sum(float(batch["collate_s"]) for batch in batches) if "collate" in delays else 0.0,
    }
    found = stalls.wait_seconds
    assert sum(found.values()) == pytest.approx(waited, rel=TOLERANCE)
    for stage in delays:
        attributed = found[stage] / sum(found[each] for each in delays)
        assert attributed == pytest.approx(made[stage] / sum(made[each] for each in delays), abs=TOLERANCE), found


def test_workers_know_nothing_of_what_was_waited_for_before_them() -> None:
    """Forked while the trainer waits, they start at zero: long stages of one epoch do not count in the next."""
    collate = Pausing("collate", 0.05)
    with _adapter({}, 16) as adapter:
        loader = StreamingDataLoader(adapter, 2, num_workers=2, multiprocessing_context="fork", collate_fn=collate)
        list(loader)
        before = loader.stalls.wait_seconds
        collate.seconds = 0.0
        list(loader)
        after = loader.stalls.wait_seconds
    assert before["collate"] > 0.05
    assert after["collate"] - before["collate"] < 0.1 * (sum(after.values()) - sum(before.values())), (before, after)


def test_a_bottleneck_behind_a_source_that_is_read_ahead_gets_the_blame() -> None:
    """Reads side by side hide their latency; what is left to wait for is the line before the thread that decodes."""
    stalls, waited, _ = _measured({"source": 0.02, "decode": 0.04}, 60, {"enable_prefetch": True}, batch_size=4)
    found = stalls.wait_seconds
    assert sum(found.values()) == pytest.approx(waited, rel=TOLERANCE)
    hidden = stalls.busy_seconds  # the thread decodes meanwhile
    assert found["decode"] == pytest.approx(sum(planted.SECONDS["decode"]) - hidden, abs=TOLERANCE * waited), found
    assert found["decode"] > 10 * found["source"], found  # that of the first batch


def test_decompression_is_measured_apart_from_decoding() -> None:
    """For an object that ends in .zst, the time to decompress is not part of the time of its codec."""
    data = zstandard.compress(bytes(10_000_000))
    planted.decode_takes(0.03)
    source = SlowSource(12, 0.0, suffix=".slow.zst", data=data)
    with StreamingDatasetAdapter([source], {"slow": "x"}, enable_prefetch=False, decode_threads=1) as adapter:
        loader = StreamingDataLoader(adapter)
        waited, _ = _run(iter(loader))
    found = loader.stalls.wait_seconds
    assert found["decode"] == pytest.approx(sum(planted.SECONDS["decode"]), abs=TOLERANCE * waited)
    assert found["decompress"] > 0
    rest = waited - found["decode"] - found["decompress"]
    assert rest < 0.5 * waited, found


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_of_torch_can_be_watched(workers: int) -> None:
    """`monitor_stalls` gives the batches of any DataLoader as they are, with an account of the waits."""
    delays = {"transform": 0.03, "collate": 0.03}

    def two_epochs() -> tuple[MonitoredLoader, float, list[Any]]:
        with _adapter(delays, 12) as adapter:
            collate = Pausing("collate", delays["collate"])
            loader = DataLoader(
                adapter, batch_size=2, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0
            )
            watched = monitor_stalls(loader)
            waited, batches = _run(iter(watched))
            again, _ = _run(iter(watched))
            assert loader.collate_fn is collate
            assert len(watched) == len(batches) == 6
            assert watched.batch_size == 2
            return watched, waited + again, batches

    watched, waited, batches = calmly(two_epochs)
    assert all(type(batch) is dict for batch in batches)
    assert watched.stalls.steps == 12
    found = watched.stalls.wait_seconds
    assert sum(found.values()) == pytest.approx(waited, rel=TOLERANCE)
    assert found["transform"] > found["collate"] > 0.5 * found["transform"] / 2


def test_the_account_knows_when_the_trainer_is_busy() -> None:
    """The trainer is busy between two requests for a batch; the share of waiting follows from it."""
    with _adapter({}, 5) as adapter:
        loader = StreamingDataLoader(adapter)
        assert loader.stalls.share == 0.0
        busy = 0.0
        for batch in loader:
            assert type(batch) is dict
            began = time.perf_counter()
            time.sleep(0.02)
            busy += time.perf_counter() - began
        stalls = loader.stalls
    assert stalls.steps == 5
    assert stalls.busy_seconds == pytest.approx(busy, rel=TOLERANCE)
    waited = sum(stalls.wait_seconds.values())
    assert stalls.share == pytest.approx(waited / (waited + stalls.busy_seconds))
    assert 0 < stalls.last_wait_s < waited
    assert 0 < stalls.last_busy_s < stalls.busy_seconds


def test_reads_outside_the_loader_are_not_waits_of_the_loader() -> None:
    """A trainer that reads samples itself between two batches is busy meanwhile."""
    with _adapter({"transform": 0.02}, 8) as adapter:
        loader = StreamingDataLoader(adapter, batch_size=2)
        for _ in loader:
            adapter.__getitems__([0, 1])
        stalls = loader.stalls
    made = sum(planted.SECONDS["transform"]) / 2
    assert stalls.wait_seconds["transform"] == pytest.approx(made, rel=0.1)
    assert stalls.busy_seconds > 0.9 * made


def test_copies_to_a_device_are_a_stage() -> None:
    """Where batches are placed on a device, what no other stage explains is that."""
    with _adapter({}, 4) as adapter:
        loader = StreamingDataLoader(adapter, device="cpu")
        assert len(list(loader)) == 4
    assert loader.stalls.wait_seconds["device"] > 0


def test_an_iteration_that_is_left_early_costs_nothing_later() -> None:
    """Stopping early and starting again counts each batch once, and no time in between."""
    with _adapter({}, 10) as adapter:
        loader = StreamingDataLoader(adapter)
        assert len(list(islice(loader, 3))) == 3
        busy = loader.stalls.busy_seconds
        again = iter(loader)
        next(again)
        assert loader.stalls.busy_seconds == busy
        assert len(list(again)) == 9
    assert loader.stalls.steps == 13


def test_a_wait_that_ends_in_an_error_counts() -> None:
    """What it took is in its stages and in the whole, and takes nothing from the others' later."""

    def refuse(sample: Any) -> Any:
        planted.pause("prepare", 0.1)
        if len(planted.SECONDS["prepare"]) == 2:
            raise ValueError("planted")
        return sample

    with _adapter({}, 4, prepare=refuse) as adapter:
        loader = StreamingDataLoader(adapter, **_options({"collate": 0.05}))
        began = time.perf_counter()
        with pytest.raises(PrepareError, match="planted"):
            list(loader)
        list(loader)
        waited = time.perf_counter() - began
    assert len(planted.SECONDS["prepare"]) == 5
    _assert_agrees(loader.stalls, waited, {"collate": sum(planted.SECONDS["collate"])})
    assert loader.stalls.share == pytest.approx(1.0, abs=TOLERANCE)


def test_no_stage_ever_sinks() -> None:
    """A scrape in the middle of a step sees no less than the one before."""
    looks: list[dict[str, float]] = []
    with _adapter({"transform": 0.005}, 8) as adapter:

        def look(samples: list[Any]) -> Any:
            looks.append(loader.stalls.wait_seconds)
            return samples

        loader = StreamingDataLoader(adapter, collate_fn=look)
        looks.extend(loader.stalls.wait_seconds for _ in loader)
    assert len(looks) == 16
    for before, after in pairwise(looks):
        assert all(after[stage] >= before[stage] for stage in STAGES), (before, after)
    assert looks[-1]["collate"] > looks[1]["collate"] > 0


def test_every_stage_has_a_number() -> None:
    """The metrics of an account have each stage, also those without waits."""
    reading = StallAccount(default_stage(workers=0)).metrics_snapshot()
    assert reading["trainer_wait_seconds"] == {(stage,): 0.0 for stage in STAGES}


def test_an_account_on_its_way_is_pinned_and_copied_with_its_batch() -> None:
    """What DataLoader does with batches reaches the batch inside."""
    planted_delay = {"collate": 0.001}
    with _adapter(planted_delay, 2) as adapter:
        loader = StreamingDataLoader(adapter, num_workers=1, multiprocessing_context="spawn", **_options(planted_delay))
        batches = list(loader)
    assert [batch["idx"].tolist() for batch in batches] == [[0], [1]]
    assert torch.equal(copy.deepcopy(batches[0])["x"], torch.zeros(1, planted.LENGTH, dtype=torch.float64))
