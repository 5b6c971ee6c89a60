"""Samples that are missing, damaged or refused: they are replaced alike everywhere and recorded, up to a share."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from streaming.adapter import StreamingDatasetAdapter
from streaming.cache import SmartLRUCache
from streaming.cache.reservation import Reservation, ReservationState
from streaming.engine.bad_samples import BadSamples, Replacing
from streaming.errors import (
    AccessDenied,
    ConfigError,
    DecodeError,
    ObjectNotFoundError,
    StreamingError,
    TooManyBadSamples,
)
from streaming.loader.data_loader import StreamingDataLoader
from streaming.testing import Fault, FaultySource, MemorySource

COUNT = 60
DAMAGED = {3, 17, 18, 40}

TRAINER = """
import sys, json, torch
from torch import distributed
from streaming.loader.data_loader import StreamingDataLoader
from streaming.adapter import StreamingDatasetAdapter

rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
adapter = StreamingDatasetAdapter(f"{folder}/data", on_error="replace", max_bad_share=0.5)
loader = StreamingDataLoader(adapter, 5, shuffle=True, num_workers=int(sys.argv[3]))
steps = 0
for batch in loader:
    together = torch.tensor(len(batch["idx"]))
    distributed.all_reduce(together)
    assert together == 2 * len(batch["idx"])
    steps += 1
print(json.dumps([steps, adapter.get_cache_stats()["bad_samples"]]))
distributed.destroy_process_group()
"""


def source_of(damaged: Any = DAMAGED, count: int = COUNT) -> MemorySource:
    return MemorySource("data", {f"{n:03d}.json": b"{" if n in damaged else b"[%d]" % n for n in range(count)})


def replacing(source: Any, **options: Any) -> StreamingDatasetAdapter:
    return StreamingDatasetAdapter(source, **{"on_error": "replace", "max_bad_share": 0.5, **options})


def indices(dataset: Any, workers: int = 0) -> list[int]:
    return [sample["idx"] for batch in DataLoader(dataset, 7, num_workers=workers, collate_fn=list) for sample in batch]


def test_by_default_the_error_is_raised() -> None:
    """`on_error` is "raise" by default; an unknown value is refused."""
    with StreamingDatasetAdapter(source_of()) as adapter, pytest.raises(DecodeError, match=r"003\.json"):
        adapter[3]
    with pytest.raises(ConfigError, match="on_error"):
        replacing(source_of(), on_error="skip")


@pytest.mark.parametrize("workers", [0, 2])
def test_substitutes_are_good_samples_and_the_same_in_every_run(workers: int, tmp_path: Path) -> None:
    """With any reader and order, the substitute has its own `idx`, and each bad sample is recorded once."""
    quarantine = tmp_path / "bad.jsonl"
    with replacing(source_of(), quarantine_path=quarantine) as adapter:
        found = indices(adapter, workers)
        assert found == indices(adapter, workers)
        assert adapter.get_cache_stats()["bad_samples"] == len(DAMAGED)
    with replacing(source_of()) as other:
        assert [other[n]["idx"] for n in reversed(range(COUNT))] == found[::-1]
    assert len(found) == COUNT
    assert {n for n in range(COUNT) if found[n] != n} == DAMAGED
    assert not DAMAGED & set(found)
    lines = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert {line["position"] for line in lines} == DAMAGED
    assert len(lines) == len(DAMAGED)
    assert all(line["path"] == f"{line['position']:03d}.json" and line["source"] == "data" for line in lines)
    assert all(line["error"] == "TruncatedData" and line["reason"] for line in lines)


def test_a_substitute_is_cached_in_place_of_its_sample(tmp_path: Path) -> None:
    """The bad object is not read each time; after an eviction it is not recorded again."""
    source = source_of()
    quarantine = tmp_path / "bad.jsonl"
    with replacing(source, quarantine_path=quarantine) as adapter:
        first = [adapter[3]["idx"] for _ in range(3)]
        assert source.reads["003.json"] == 1
        adapter.clear_cache()
        assert {adapter[3]["idx"], *first} == {first[0]}
        assert source.reads["003.json"] == 2
        assert adapter.get_cache_stats()["bad_samples"] == 1
    assert len(quarantine.read_text().splitlines()) == 1


def test_missing_changed_and_refused_samples_are_replaced() -> None:
    """An object was removed, one was replaced, and `prepare` refuses one."""
    source = source_of(())

    def refuse(sample: Any) -> Any:
        if sample["data"] == [5]:
            raise ValueError("five")
        return sample

    with replacing(source, prepare=refuse) as adapter:
        source.delete("007.json")
        source.put("009.json", b'"another"')
        assert {n for n in range(COUNT) if adapter[n]["idx"] != n} == {5, 7, 9}
        assert adapter.get_cache_stats()["bad_samples"] == 3


@pytest.mark.parametrize("error", [AccessDenied, ObjectNotFoundError])
def test_a_source_that_refuses_the_login_is_not_a_bad_sample(error: type[StreamingError]) -> None:
    """A refused login stops the run; a missing object does not."""
    source = FaultySource(source_of(()), [Fault(path="003.json", error=error("it said no"), times=None)])
    with replacing(source) as adapter:
        if error is ObjectNotFoundError:
            assert adapter[3]["idx"] != 3
        else:
            with pytest.raises(AccessDenied):
                adapter[3]


def test_more_than_the_share_stops_the_run() -> None:
    """The error has the numbers, the last sample and the next step."""
    with replacing(source_of(range(0, COUNT, 2)), max_bad_share=0.2) as adapter:
        with pytest.raises(TooManyBadSamples, match=r"max_bad_share allows 0\.2.*set quarantine_path") as caught:
            indices(adapter)
        assert isinstance(caught.value.__cause__, DecodeError)
    with replacing(source_of(range(8)), max_bad_share=0.0) as adapter:
        assert len(indices(adapter)) == COUNT  # few are allowed, whatever their share


def test_if_all_candidates_are_bad_the_first_error_is_raised() -> None:
    """All candidates are tried, and the error names the sample that was read."""
    with replacing(source_of(range(8), 8), max_bad_share=1) as adapter, pytest.raises(DecodeError, match=r"002\.json"):
        adapter[2]


def test_an_unwritable_quarantine_file_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The samples are replaced all the same, with one warning."""
    with replacing(source_of(), quarantine_path=tmp_path / "none" / "bad.jsonl") as adapter:
        assert len(indices(adapter)) == COUNT
    assert sum("quarantine_failed" in record.message for record in caplog.records) == 1


def test_candidates_are_spread_and_never_the_sample_itself() -> None:
    """No sample replaces many others."""
    bad = BadSamples(1000, 0, None, 1.0)
    firsts = [bad.candidates(position)[0] for position in range(1000)]
    assert all(position not in bad.candidates(position) for position in range(1000))
    assert max(firsts.count(sample) for sample in set(firsts)) <= 2
    assert BadSamples(1, 0, None, 1.0).candidates(0) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_ranks_stay_aligned_with_bad_samples_on_one_of_them(workers: int, tmp_path: Path) -> None:
    """Two processes take the same number of steps with equal batches, each ended by a collective call."""
    (tmp_path / "data").mkdir()
    indices: Any = list(range(COUNT))
    loader = StreamingDataLoader(indices, 5, shuffle=True, rank=1, world_size=2, collate_fn=list)
    of_rank_1 = [sample for batch in loader for sample in batch][::4]
    for number in range(COUNT):
        (tmp_path / "data" / f"{number:03d}.json").write_text("{" if number in of_rank_1 else "[1]")
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TRAINER, str(rank), str(tmp_path), str(workers)], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    results = [json.loads(run.communicate(timeout=180)[0]) for run in runs]
    assert [steps for steps, _ in results] == [6, 6]
    assert results[1][1] >= len(of_rank_1)


async def test_a_substitute_is_stored_in_the_room_of_the_bad_sample() -> None:
    """The reservation of the read holds the substitute, and the candidate that was loaded for it has none."""
    given: dict[int, Reservation | None] = {}

    async def load(position: int, reservation: Reservation | None) -> list[int]:
        given[position] = reservation
        if position == 3:
            raise DecodeError("planted", path="003.json", source="data")
        return [position]

    class Names:
        def name(self, position: int) -> str:
            return f"{position:03d}"

    index: Any = Names()
    cache = SmartLRUCache(max_size_bytes=1_000_000)
    cache.serves_processes = True
    reservation = cache.reserve(100, until_read=True)
    assert reservation is not None
    sample = await Replacing(load, BadSamples(COUNT, 0, None, 0.5), index, cache, lambda: COUNT).load(3, reservation)
    assert cache.get_nowait(3) == sample
    assert reservation.state is ReservationState.STORED_UNREAD
    assert given == {3: reservation, sample[0]: None}
