"""Waits of readers by stage, from the moments at which samples passed each stage."""

from __future__ import annotations

from typing import Any

import pytest

from streaming.telemetry.stages import STAGES
from streaming.telemetry.timelines import Timelines, TimelineTuple


def wait_for(positions: list[int], began: float, ended: float, *passed: TimelineTuple) -> dict[str, Any]:
    """Return the wait by stage, without the stages that took no time."""
    timelines = Timelines()
    for each in passed:
        timelines.note(each)
    seconds = timelines.waited(positions, began, ended)
    assert sum(seconds) == pytest.approx(ended - began)
    return {stage: pytest.approx(part) for stage, part in zip(STAGES, seconds, strict=True) if part}


def test_each_stage_has_its_part_of_the_wait() -> None:
    """Awaited bytes, then decompression, decoding, preparing and the cache, in one wait that covers them all."""
    passed = (7, 10.0, 11.0, 11.0, 11.0, 11.5, 11.75, 12.0, 0.125)
    parts = {"source": 1.0, "decompress": 0.125, "decode": 0.375, "prepare": 0.25, "cache": 0.25}
    assert wait_for([7], 10.0, 12.0, passed) == parts


def test_before_the_load_is_the_queue_and_after_it_the_cache() -> None:
    """A read waits for room until its load begins, and takes its copy once the load has ended."""
    passed = (7, 11.0, 12.0, 12.0, 12.0, 13.0, 13.0, 13.0, 0.0)
    assert wait_for([7], 10.0, 13.5, passed) == {"queue": 1.0, "source": 1.0, "decode": 1.0, "cache": 0.5}


def test_a_wait_for_a_thread_has_the_proportions_of_what_the_threads_did() -> None:
    """For samples that a thread reads itself, from the work that it did before."""
    busy: TimelineTuple = (6, 10.0, 10.0, 10.0, 11.0, 14.0, 14.0, 14.0, 0.0)
    waits: TimelineTuple = (7, 10.0, 10.0, 14.0, 15.0, 18.0, 18.0, 18.0, 0.0)
    assert wait_for([7], 10.0, 18.0, busy, waits) == {"source": 2.0, "decode": 6.0}
    packed: TimelineTuple = (*busy[:8], 2.0)
    assert wait_for([7], 10.0, 18.0, packed, waits) == {"source": 2.0, "decompress": 2.0, "decode": 4.0}


def test_bytes_that_arrived_before_they_were_wanted_do_not_count() -> None:
    """They were read ahead and waited for a thread: a faster source would have changed nothing."""
    busy: TimelineTuple = (6, 5.0, 6.0, 6.0, 6.0, 14.0, 14.0, 14.0, 0.0)
    waits: TimelineTuple = (7, 6.0, 9.0, 14.0, 9.0, 18.0, 18.0, 18.0, 0.0)
    assert wait_for([7], 10.0, 18.0, busy, waits) == {"decode": 8.0}


@pytest.mark.parametrize("positions", [[8], [7]])
def test_a_sample_that_did_not_arrive_meanwhile_explains_nothing(positions: list[int]) -> None:
    """A sample that is not known, or arrived before the wait: the reader waited for its turn."""
    passed = (7, 7.0, 8.0, 8.0, 8.0, 9.0, 9.0, 9.0, 0.0)
    assert wait_for(positions, 10.0, 12.0, passed) == {"queue": 2.0}
