"""What was tried, told in one error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from streaming.errors import SourceError, SourceUnavailable, StreamingError

MOST_TOLD = 8  # kinds of attempts spelled out in a message: the first ones and the last ones
_SECONDS = re.compile(r"\d+\.\d+")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that brought nothing.

    Attributes:
        source: the name of the copy asked.
        kind: the name of the error's class, or `no answer`.
        text: the error's message.
        seconds: how long the attempt took.
    """

    source: str
    kind: str
    text: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.source}: {self.kind} after {self.seconds:.2f} s" + (f" ({self.text})" if self.text else "")


def failed(source: str, error: BaseException, seconds: float) -> tuple[Attempt, ...]:
    """The attempts that an error tells of: its own history, or itself as one."""
    return attempts_of(error) or (Attempt(source, type(error).__name__, str(error), seconds),)


def attempts_of(error: BaseException) -> tuple[Attempt, ...]:
    """The history that an error carries; empty if it carries none."""
    attempts: tuple[Attempt, ...] = getattr(error, "attempts", ())
    return attempts


def carry(error: BaseException, attempts: Sequence[Attempt]) -> None:
    """Let an error carry a history; a cancelled read takes it along too."""
    error.__dict__["attempts"] = tuple(attempts)


def told(error: StreamingError, attempts: Sequence[Attempt], why: str, path: str, source: str) -> StreamingError:
    """An error of the class of `error` whose message and `attempts` tell the history.

    Args:
        why: the beginning of the message, after path and source.
    """
    kind = type(error) if isinstance(error, SourceError) else SourceUnavailable
    said = _summary(attempts)
    if len(said) > MOST_TOLD:
        half = MOST_TOLD // 2
        said = [*said[:half], f"{len(said) - 2 * half} more", *said[-half:]]
    text = f"{path!r} of source {source!r} {why} ({len(attempts)} attempts): {'; '.join(said)}"
    whole = kind(text, path=path, source=source)
    carry(whole, attempts)
    for name in ("status", "throttled", "retry_after_s", "retryable"):
        if name in error.__dict__:
            whole.__dict__[name] = error.__dict__[name]
    return whole


def _summary(attempts: Sequence[Attempt]) -> list[str]:
    """Each kind of attempt once, with its number; those that differ in seconds alone are of one kind."""
    kinds: dict[tuple[str, str, str], list[Attempt]] = {}
    for attempt in attempts:
        kinds.setdefault((attempt.source, attempt.kind, _SECONDS.sub("", attempt.text)), []).append(attempt)
    return [str(same[0]) if len(same) == 1 else _several(same) for same in kinds.values()]


def _several(same: Sequence[Attempt]) -> str:
    first = same[0]
    seconds = sum([attempt.seconds for attempt in same])
    told = f" ({first.text})" if first.text else ""
    return f"{first.source}: {first.kind} {len(same)} times, {seconds:.1f} s in all{told}"
