"""Progress of a run, as a small state that can be saved and resumed from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from streaming.core.logs import get_logger
from streaming.errors import StateError

__all__ = ["VERSION", "LoaderState", "Pass"]

logger = get_logger(__name__)

VERSION = 1
"""Version of the layout of a state."""

_MOST = 2**62
_NEXT_STEP = {
    "fingerprint": "the objects changed since: read the data the run began with, or set 'fingerprint' to None in the "
    "state if the samples and their indices are the same",
    "n": "the data set has another size: read the data the run began with",
}


class Pass:
    """One iteration over a loader or sampler, to the end of an epoch or to where it was left.

    Attributes:
        epoch: epoch of the order.
        position: number of units of the epoch used so far, over all ranks.
    """

    __slots__ = ("epoch", "position")

    def __init__(self, epoch: int, position: int) -> None:
        self.epoch = epoch
        self.position = position


class LoaderState:
    """Position of a run, and where the next pass over the data begins.

    | before a pass | it begins at (epoch, position) |
    | --- | --- |
    | nothing | (0, 0) |
    | the last pass ended, in epoch e | (e + 1, 0) |
    | the last pass was left at (e, p) | (e + 1, 0) |
    | a state of (e, p) was loaded | (e, p) |
    | `set_epoch(x)`, also with x = e | (x, 0) |
    | a state of (e, p) was loaded, then `set_epoch(e)` | (e, p) |

    The state is the position of the pass under way; after a pass that was left early, the position where it was left.

    Args:
        settings: `settings(epoch, position)` returns what the order up to there depends on, as JSON; a state with
            other settings is refused.

    Attributes:
        epoch: epoch of the pass under way; once its last unit was used, the next one.
        position: number of units of the epoch used so far, over all ranks.
    """

    def __init__(self, settings: Callable[[int, int], Mapping[str, Any]]) -> None:
        self.epoch = 0
        self.position = 0
        self.settings = settings
        self._next: tuple[int, int] | None = (0, 0)  # None: the last pass has not ended
        self._is_loaded = False  # whether a state was loaded for the next pass
        self._pass: Pass | None = None

    def set_epoch(self, epoch: int) -> None:
        """Begin the next pass at the start of this epoch, or at the position of a loaded state of this epoch.

        Raises:
            ValueError: the epoch is not an integer of at least 0.
        """
        if not (isinstance(epoch, int) and 0 <= epoch < _MOST):
            raise ValueError(f"epoch={epoch!r} must be an integer of at least 0")
        if self._is_loaded and epoch == self.epoch:
            return
        if self._is_loaded and epoch < self.epoch:
            logger.warning(
                "state_dropped loaded_epoch=%d loaded_position=%d epoch=%d next_step=%s",
                self.epoch,
                self.position,
                epoch,
                "count epochs on from the state's, or call set_epoch before load_state_dict",
            )
        self._go_to(epoch, 0)

    def _go_to(self, epoch: int, position: int) -> None:
        self._next = self.epoch, self.position = epoch, position
        self._is_loaded = False

    @property
    def start(self) -> tuple[int, int]:
        """Epoch and position at which the next pass begins."""
        return self._next or (self.epoch + 1, 0)

    @property
    def left_at(self) -> int | None:
        """Position at which the last pass was left early, if nothing else sets where the next one begins."""
        return self.position if self._next is None else None

    def begin(self) -> Pass:
        """Begin a pass. If several are under way, the newest counts."""
        self._go_to(*self.start)
        self._next = None
        self._pass = Pass(self.epoch, self.position)
        return self._pass

    def advance(self, run: Pass, units: int) -> None:
        """Count units that a pass has used, over all ranks."""
        run.position += units
        if run is self._pass:
            if self._next == (run.epoch, 0):  # set during this pass, which continues
                self._next = None
            self.epoch, self.position = run.epoch, run.position

    def finish(self, run: Pass) -> None:
        """Count the last unit of a pass."""
        run.epoch, run.position = run.epoch + 1, 0
        if run is self._pass:
            self._pass = None
            if self._next is None or self._next == (run.epoch - 1, 0):
                self._next = run.epoch, 0
            self.epoch, self.position = self._next

    def state_dict(self) -> dict[str, Any]:
        """Return `{"version", "epoch", "position"}` and the settings: JSON of less than a kilobyte."""
        settings = self.settings(self.epoch, self.position)
        return {"version": VERSION, "epoch": self.epoch, "position": self.position, **settings}

    def load_state_dict(self, state: Mapping[str, Any] | str | bytes) -> None:
        """Resume from a state, a dict or its JSON, with the next pass; a refused state changes nothing.

        Raises:
            StateError: the state is damaged, of another version, or of a run with other settings; says which.
        """
        loaded = _parsed(state)
        version = loaded.get("version")
        if version != VERSION:
            raise StateError(
                f"the state is of version {version!r} and this release reads {VERSION}: resume with the release that "
                "saved it"
            )
        epoch, position = loaded.get("epoch"), loaded.get("position")
        if epoch is None or position is None or not (_is_count(epoch) and _is_count(position)):
            raise StateError(
                f"the state is damaged: epoch={epoch!r} and position={position!r} must be counts; load an older state"
            )
        settings = self.settings(int(epoch), int(position))
        if differences := [text for name in {**settings, **loaded} if (text := _difference(name, loaded, settings))]:
            raise StateError(f"the state is of another run: {'; '.join(differences)}")
        self._go_to(int(epoch), int(position))
        self._is_loaded, self._pass = True, None


def _difference(name: str, loaded: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    if name in ("version", "epoch", "position") or (name == "fingerprint" and loaded.get(name) is None):
        return None
    was, now = loaded.get(name), settings.get(name)
    if was == now:
        return None
    next_step = _NEXT_STEP.get(name, f"set {name} as it was")
    return f"{name} was {was!r} and is {now!r} ({next_step})"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _parsed(state: Mapping[str, Any] | str | bytes) -> Mapping[str, Any]:
    if isinstance(state, str | bytes):
        try:
            state = json.loads(state)
        except (ValueError, RecursionError) as exc:
            raise StateError(f"the state is not JSON ({exc}): it is truncated or another file") from exc
    if not isinstance(state, Mapping):
        raise StateError(f"a state must be a dict, not {type(state).__name__}: pass what state_dict() returned")
    return state
