"""Errors that list the attempts behind them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from streaming.errors import SourceError, SourceUnavailable, StreamingError

MAX_LISTED = 8  # kinds of attempts spelled out in a message: the first ones and the last ones
_SECONDS = re.compile(r"\d+\.\d+")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One failed attempt.

    Attributes:
        source: name of the replica.
        kind: name of the error's class, or `no answer`.
        text: the error's message.
        seconds: how long the attempt took.
    """

    source: str
    kind: str
    text: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.source}: {self.kind} after {self.seconds:.2f} s" + (f" ({self.text})" if self.text else "")


def attempts_of(error: BaseException) -> tuple[Attempt, ...]:
    """Return the attempts that an error lists; empty if it lists none."""
    attempts: tuple[Attempt, ...] = getattr(error, "attempts", ())
    return attempts


def attempts_from(source: str, error: BaseException, seconds: float) -> tuple[Attempt, ...]:
    """Return the attempts that an error lists, or else the error itself as one."""
    return attempts_of(error) or (Attempt(source, type(error).__name__, str(error), seconds),)


def attach_attempts(error: BaseException, attempts: Sequence[Attempt]) -> None:
    """Let an error list attempts; the error of a cancelled read does so too."""
    error.__dict__["attempts"] = tuple(attempts)


def with_history(
    error: StreamingError, attempts: Sequence[Attempt], why: str, path: str, source: str
) -> StreamingError:
    """Return an error of the class of `error` whose message and `attempts` list the history.

    Args:
        error: the last error, or the most useful one.
        attempts: all attempts.
        why: start of the message, after path and source.
        path: of the object.
        source: name of the source.
    """
    kind = type(error) if isinstance(error, SourceError) else SourceUnavailable
    lines = _summary(attempts)
    if len(lines) > MAX_LISTED:
        half = MAX_LISTED // 2
        lines = [*lines[:half], f"{len(lines) - 2 * half} more", *lines[-half:]]
    text = f"{path!r} of source {source!r} {why} ({len(attempts)} attempts): {'; '.join(lines)}"
    whole = kind(text, path=path, source=source)
    attach_attempts(whole, attempts)
    for name in ("status", "throttled", "retry_after_s", "retryable"):
        if name in error.__dict__:
            whole.__dict__[name] = error.__dict__[name]
    return whole


def _summary(attempts: Sequence[Attempt]) -> list[str]:
    """Describe each kind of attempt once, with its count; attempts that differ only in seconds are of one kind."""
    kinds: dict[tuple[str, str, str], list[Attempt]] = {}
    for attempt in attempts:
        kinds.setdefault((attempt.source, attempt.kind, _SECONDS.sub("", attempt.text)), []).append(attempt)
    return [str(same[0]) if len(same) == 1 else _repeated(same) for same in kinds.values()]


def _repeated(same: Sequence[Attempt]) -> str:
    first = same[0]
    seconds = sum([attempt.seconds for attempt in same])
    text = f" ({first.text})" if first.text else ""
    return f"{first.source}: {first.kind} {len(same)} times, {seconds:.1f} s in all{text}"
