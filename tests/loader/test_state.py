"""The state of a run: small, exact, and refused with a reason where it does not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streaming.errors import StateError
from streaming.loader.state import VERSION, LoaderState

SETTINGS = {"order": "shuffled", "n": 100, "seed": 7, "fingerprint": "abc"}


def progress(**changes: Any) -> LoaderState:
    return LoaderState(lambda epoch, position: {**SETTINGS, **changes})


def at(epoch: int, position: int, **changes: Any) -> LoaderState:
    """A run whose pass under way has come to this place."""
    run = progress(**changes)
    run.set_epoch(epoch)
    run.advance(run.begin(), position)
    return run


def begin(run: LoaderState) -> tuple[int, int]:
    found = run.begin()
    return found.epoch, found.position


def test_a_state_goes_through_json_and_restores_the_place() -> None:
    """Epoch and position come back, from the dict and from its JSON, and the next pass begins there."""
    saved = at(3, 40)
    for state in (saved.state_dict(), json.dumps(saved.state_dict()), json.dumps(saved.state_dict()).encode()):
        loaded = progress()
        loaded.load_state_dict(state)
        assert loaded.state_dict() == saved.state_dict()
        assert begin(loaded) == (3, 40)


def ended(epoch: int) -> LoaderState:
    run = progress()
    run.set_epoch(epoch)
    run.finish(run.begin())
    return run


def loaded(epoch: int, position: int, then: int | None = None) -> LoaderState:
    run = at(8, 10)
    run.load_state_dict(at(epoch, position).state_dict())
    if then is not None:
        run.set_epoch(then)
    return run


def told(run: LoaderState, epoch: int) -> LoaderState:
    run.set_epoch(epoch)
    return run


@pytest.mark.parametrize(
    ("run", "state", "start"),
    [
        (progress(), (0, 0), (0, 0)),
        (ended(3), (4, 0), (4, 0)),
        (at(3, 40), (3, 40), (4, 0)),
        (at(3, 0), (3, 0), (4, 0)),
        (loaded(3, 40), (3, 40), (3, 40)),
        (told(at(3, 40), 3), (3, 0), (3, 0)),
        (told(at(3, 40), 7), (7, 0), (7, 0)),
        (told(ended(3), 3), (3, 0), (3, 0)),
        (told(progress(), 5), (5, 0), (5, 0)),
        (loaded(3, 40, then=3), (3, 40), (3, 40)),
        (told(loaded(3, 40, then=3), 3), (3, 40), (3, 40)),
        (loaded(3, 40, then=5), (5, 0), (5, 0)),
        (told(loaded(3, 40, then=5), 3), (3, 0), (3, 0)),
    ],
    ids=[
        "new",
        "ended",
        "left",
        "left before its first batch",
        "loaded",
        "left, then set_epoch of the same",
        "left, then set_epoch of another",
        "ended, then set_epoch of the same",
        "new, then set_epoch",
        "loaded, then set_epoch of the same",
        "loaded, then set_epoch of the same twice",
        "loaded, then set_epoch of another",
        "loaded, then set_epoch of another, then of the same",
    ],
)
def test_where_a_pass_begins(run: LoaderState, state: tuple[int, int], start: tuple[int, int]) -> None:
    """The table of `LoaderState`: each pass is an epoch of its own, and the state is the place where a run was left."""
    assert (run.epoch, run.position) == state
    assert begin(run) == start
    assert (run.epoch, run.position) == start


def test_a_loaded_state_counts_for_one_pass() -> None:
    """After it epochs follow each other, and `set_epoch` begins an epoch at its start again."""
    run = loaded(3, 40)
    run.advance(run.begin(), 10)
    run.set_epoch(3)
    assert begin(run) == (3, 0)
    assert begin(run) == (4, 0)


def test_a_pass_that_goes_on_after_set_epoch_counts_on() -> None:
    """The state follows the pass under way; what was set for the next one holds, unless it is the epoch under way."""
    for epoch, following in ((3, (4, 0)), (9, (9, 0))):
        run = progress()
        run.set_epoch(3)
        under_way = run.begin()
        run.advance(under_way, 10)
        run.set_epoch(epoch)
        run.advance(under_way, 10)
        assert (run.epoch, run.position) == (3, 20)
        run.finish(under_way)
        assert (run.epoch, run.position) == following
        assert begin(run) == following


def test_of_two_passes_the_newer_one_counts() -> None:
    """Neither an older one that goes on or ends, nor one from before a state was loaded, moves the state."""
    run = progress()
    old, new = run.begin(), run.begin()
    run.advance(new, 5)
    run.advance(old, 50)
    run.finish(old)
    assert (run.epoch, run.position) == (1, 5)
    run.load_state_dict(at(3, 40).state_dict())
    run.advance(new, 5)
    run.finish(new)
    assert begin(run) == (3, 40)


def test_going_back_behind_a_loaded_state_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """A trainer that counts epochs from 0 after a resume would repeat them without a word; going on is no loss."""
    loaded(3, 40, then=4), loaded(3, 40, then=3), told(at(3, 40), 0)
    assert caplog.records == []
    loaded(3, 40, then=0)
    assert "state_dropped loaded_epoch=3 loaded_position=40 epoch=0" in caplog.text


def test_an_epoch_is_a_number_from_0_up() -> None:
    """Anything else is refused, and changes nothing."""
    run = at(3, 40)
    for wrong in (-1, 1.5, None):
        with pytest.raises(ValueError, match="epoch="):
            run.set_epoch(wrong)  # type: ignore[arg-type]
    assert begin(run) == (4, 0)


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
        ({"position": 2**63}, "damaged"),
        ({"position": True}, "damaged"),
        ({"position": 1.0}, "damaged"),
        ({"position": None}, "damaged"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, Any], told: str) -> None:
    """The error says what differs, and nothing is changed."""
    run = at(1, 10)
    before = run.state_dict()
    with pytest.raises(StateError, match=told):
        run.load_state_dict({**before, **changes})
    assert run.state_dict() == before


@pytest.mark.parametrize("text", ["", "{", '{"version": 1', "[]", "null", b"\xff\xfe", "[" * 100_000])
def test_damaged_json(text: str | bytes) -> None:
    """A truncated file is reported as such, not as a state of another run."""
    with pytest.raises(StateError, match=r"is not JSON|must be a dict"):
        progress().load_state_dict(text)


def test_a_state_without_fingerprint_fits_any_data() -> None:
    """A user who knows that the samples are the same can remove it."""
    run = progress()
    run.load_state_dict({**run.state_dict(), "fingerprint": None, "position": 5})
    assert begin(run) == (0, 5)
