"""How a command ends: errors become one line and an exit code, interruptions are quiet (Ctrl-C is so by typer: 130)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import typer

from streaming.cli.printing import print_line
from streaming.errors import ConfigError, StreamingError

__all__ = ["FAILED", "SIGTERM", "USAGE", "check_output", "outcome", "raise_on_sigterm"]

FAILED = 1
USAGE = 2
SIGTERM = 143


def raise_on_sigterm() -> None:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that `with` blocks and `finally` clean up on the way out."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(SIGTERM)


def check_output(output: Path) -> None:
    """Refuse an output that a new file must not take the place of: a folder, a device, a pipe.

    Raises:
        ConfigError: if something other than a file is there.
    """
    if output.exists() and not output.is_file():
        raise ConfigError(f"{output}: is there and not a file; -o would put a new file in its place, so give another")


@contextmanager
def outcome() -> Iterator[None]:
    """Turn what a command raises into its exit code.

    Raises:
        typer.Exit: FAILED after a `StreamingError`, USAGE after a `ConfigError`.
    """
    try:
        yield
    except StreamingError as exc:
        line = " ".join(str(exc).split()) or type(exc).__name__
        print_line(f"streaming: {line}", to_stderr=True)
        raise typer.Exit(USAGE if isinstance(exc, ConfigError) else FAILED) from exc
