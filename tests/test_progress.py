"""The state of a run: small, exact, and refused with a reason where it does not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streaming.errors import StateError
from streaming.progress import VERSION, Progress

SETTINGS = {"order": "shuffled", "n": 100, "seed": 7, "fingerprint": "abc"}


def progress(**changes: Any) -> Progress:
    return Progress(lambda epoch, position: {**SETTINGS, **changes})


def test_a_state_goes_through_json_and_restores_the_place() -> None:
    """Epoch and position come back, from the dict and from its JSON, and the next iteration begins there."""
    saved = progress()
    saved.resume(3, 40)
    for state in (saved.state_dict(), json.dumps(saved.state_dict()), json.dumps(saved.state_dict()).encode()):
        loaded = progress()
        loaded.load_state_dict(state)
        assert loaded.begin() == (3, 40)
        assert loaded.state_dict() == saved.state_dict()


def test_only_a_loaded_state_begins_in_the_middle() -> None:
    """An iteration that was left begins its epoch anew, as torch's does; after the last unit comes the next epoch."""
    run = progress()
    run.position = 30
    assert run.begin() == (0, 0)
    run.finish()
    assert run.begin() == (1, 0)


def test_set_epoch_keeps_the_epoch_under_way() -> None:
    """The stored epoch changes nothing; another begins at its start."""
    run = progress()
    run.resume(3, 40)
    run.set_epoch(3)
    assert run.begin() == (3, 40)
    run.resume(3, 40)
    run.set_epoch(4)
    assert run.begin() == (4, 0)
    for wrong in (-1, 1.5, None):
        with pytest.raises(ValueError, match="epoch="):
            run.set_epoch(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": VERSION + 1}, "version"),
        ({"version": None}, "version"),
        ({"seed": 8}, "seed was 8 and is 7"),
        ({"n": 99}, "n was 99 and is 100"),
        ({"fingerprint": "abd"}, "the objects changed"),
        ({"order": "sequential"}, "order was 'sequential'"),
        ({"max_tokens": 512}, "max_tokens was 512 and is None"),
        ({"epoch": -1}, "damaged"),
        ({"epoch": "3"}, "damaged"),
        ({"position": 101}, "at most 100"),
        ({"position": True}, "damaged"),
        ({"position": 1.0}, "damaged"),
        ({"position": None}, "damaged"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, Any], told: str) -> None:
    """The error says what differs, and nothing is changed."""
    run = progress()
    run.resume(1, 10)
    before = run.state_dict()
    with pytest.raises(StateError, match=told):
        run.load_state_dict({**before, **changes}, units=100)
    assert run.state_dict() == before


@pytest.mark.parametrize("text", ["", "{", '{"version": 1', "[]", "null", b"\xff\xfe", "[" * 100_000])
def test_damaged_json(text: str | bytes) -> None:
    """A file that was cut short is told apart from a state of another run."""
    with pytest.raises(StateError, match=r"no JSON|is a dict"):
        progress().load_state_dict(text)


def test_a_state_without_fingerprint_fits_any_data() -> None:
    """Who knows that the samples are the same says so by removing it."""
    run = progress()
    run.load_state_dict({**run.state_dict(), "fingerprint": None, "position": 5})
    assert run.begin() == (0, 5)
