"""Errors that list the attempts behind them."""

from __future__ import annotations

import random
import re

import pytest

from streaming.errors import SourceUnavailable
from streaming.resilience import attempts_of, stack
from streaming.testing import FakeClock
from tests.resilience.parts import Held, down, driven, in_time_of, memory


async def test_equal_attempts_are_listed_once_with_their_count() -> None:
    """Two replicas that are down, retried and then left alone: each kind of answer is listed once."""
    clock = FakeClock()
    replicas = [Held(memory(name), rest=down(f"{name} is gone")) for name in ("one", "two")]
    source = stack(replicas, in_time_of(clock, random.Random(0), deadline_s=20))
    with pytest.raises(SourceUnavailable) as caught:
        await driven(clock, source.read("0.bin"))
    text = str(caught.value)
    assert [text.count(f"{name} is gone") for name in ("one", "two")] == [1, 1]
    assert text.count("breaker open") <= 2, "once for each replica, whatever the seconds"
    counts = [int(count) for count in re.findall(r"(\d+) times", text)]
    assert sum(counts) + text.count("; ") + 1 - len(counts) == len(attempts_of(caught.value)) > 4
    assert f"({len(attempts_of(caught.value))} attempts)" in text


async def test_different_attempts_are_all_listed() -> None:
    """Attempts of another status, class or replica are listed apart, in their order."""
    clock = FakeClock()
    script = [down("answered 503", status=503), down("answered 500", status=500), down("answered 503", status=503)]
    replica = Held(memory("one"), script=script, rest=down("answered 404"))
    source = stack([replica], in_time_of(clock, random.Random(0), deadline_s=1))
    with pytest.raises(SourceUnavailable) as caught:
        await driven(clock, source.read("0.bin"))
    listed = re.findall(r"answered (\d+)", str(caught.value))
    assert listed == ["503", "500", "404"]
    assert re.search(r"one: SourceUnavailable 2 times, [\d.]+ s in all \(answered 503\)", str(caught.value))
