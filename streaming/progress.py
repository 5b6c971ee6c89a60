"""How far a run has come, as a small state that can be saved and gone on from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from streaming.errors import StateError

__all__ = ["VERSION", "Progress"]

VERSION = 1
"""Of the layout of a state."""

_MOST = 2**62
_NEXT_STEP = {
    "fingerprint": "the objects changed since: read the data the run began with, or set 'fingerprint' to None in the "
    "state if the samples and their numbers are the same",
    "n": "the data set has another size: read the data the run began with",
}


class Progress:
    """The epoch, and the position in it up to which all ranks together have come.

    Args:
        settings: `settings(epoch, position)` is what the order up to there depends on, as JSON; a state of other
            settings is refused.

    Attributes:
        epoch: the one under way; after the last unit of an epoch the next one.
        position: units of the epoch that were used, over all ranks.
    """

    def __init__(self, settings: Callable[[int, int], Mapping[str, Any]]) -> None:
        self.epoch = 0
        self.position = 0
        self.settings = settings
        self._resumes = False

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; if it is the one under way, nothing changes.

        Raises:
            ValueError: if it is not a number from 0 up.
        """
        if not (isinstance(epoch, int) and 0 <= epoch < _MOST):
            raise ValueError(f"epoch={epoch!r} is not a number of an epoch: count from 0")
        if epoch != self.epoch:
            self.epoch, self.position, self._resumes = epoch, 0, False

    def begin(self) -> tuple[int, int]:
        """The epoch and position at which an iteration begins: where a loaded state says, else the epoch's start."""
        if not self._resumes:
            self.position = 0
        self._resumes = False
        return self.epoch, self.position

    def finish(self) -> None:
        """The epoch's last unit was used."""
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """`{"version", "epoch", "position"}` and the settings: JSON of less than a kilobyte."""
        settings = self.settings(self.epoch, self.position)
        return {"version": VERSION, "epoch": self.epoch, "position": self.position, **settings}

    def load_state_dict(self, state: Mapping[str, Any] | str | bytes, units: int | None = None) -> None:
        """Go on from a state, given as it was or as the text of its JSON; nothing is changed if it is refused.

        Args:
            units: how many an epoch has, where that is known.

        Raises:
            StateError: if it is damaged, of another version, or of a run with other settings; says which.
        """
        loaded = _parsed(state)
        version = loaded.get("version")
        if version != VERSION:
            raise StateError(
                f"the state is of version {version!r} and this release reads {VERSION}: go on with the release that "
                "saved it"
            )
        epoch, position = loaded.get("epoch"), loaded.get("position")
        most = _MOST if units is None else units
        if epoch is None or position is None or not (_is_count(epoch, _MOST) and _is_count(position, most)):
            raise StateError(
                f"the state is damaged: epoch={epoch!r} and position={position!r} must be counts, the position of at "
                f"most {most}; load an older one"
            )
        settings = self.settings(int(epoch), int(position))
        if told := [text for name in {**settings, **loaded} if (text := _difference(name, loaded, settings))]:
            raise StateError(f"the state is of another run: {'; '.join(told)}")
        self.resume(int(epoch), int(position))

    def resume(self, epoch: int, position: int) -> None:
        """Begin the next iteration there."""
        self.epoch, self.position, self._resumes = epoch, position, True


def _difference(name: str, loaded: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    if name in ("version", "epoch", "position") or (name == "fingerprint" and loaded.get(name) is None):
        return None
    was, now = loaded.get(name), settings.get(name)
    if was == now:
        return None
    next_step = _NEXT_STEP.get(name, f"set {name} as it was")
    return f"{name} was {was!r} and is {now!r} ({next_step})"


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _parsed(state: Mapping[str, Any] | str | bytes) -> Mapping[str, Any]:
    if isinstance(state, str | bytes):
        try:
            state = json.loads(state)
        except (ValueError, RecursionError) as exc:
            raise StateError(f"the state is no JSON ({exc}): it was cut short or is another file") from exc
    if not isinstance(state, Mapping):
        raise StateError(f"a state is a dict, not {type(state).__name__}: give what state_dict() returned")
    return state
