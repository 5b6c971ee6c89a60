"""How a command ends: errors become one line and an exit code, interruptions are quiet."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from streaming.errors import ConfigError, StreamingError

__all__ = ["CTRL_C", "FAILED", "SIGTERM", "USAGE", "outcome", "raise_on_sigterm"]

FAILED = 1
USAGE = 2
CTRL_C = 130
SIGTERM = 143


def raise_on_sigterm() -> None:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that `with` blocks and `finally` clean up on the way out."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(SIGTERM)


@contextmanager
def outcome() -> Iterator[None]:
    """Turn what a command raises into its exit code.

    Raises:
        typer.Exit: FAILED after a `StreamingError`, USAGE after a `ConfigError`, CTRL_C after Ctrl-C.
    """
    try:
        yield
    except StreamingError as exc:
        line = " ".join(str(exc).split()) or type(exc).__name__
        typer.echo(f"streaming: {line}", err=True)
        raise typer.Exit(USAGE if isinstance(exc, ConfigError) else FAILED) from exc
    except KeyboardInterrupt:
        raise typer.Exit(CTRL_C) from None
