"""Exit codes: errors become one line and a code; interruptions are quiet (typer handles Ctrl-C: 130)."""

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
    """Refuse an output that a new file must not replace: a folder, a device, a pipe.

    Raises:
        ConfigError: the output exists and is not a regular file.
    """
    if output.exists() and not output.is_file():
        raise ConfigError(f"{output}: exists and is not a file, and -o would replace it; give another")


@contextmanager
def outcome() -> Iterator[None]:
    """Turn the error of a command into its exit code.

    Raises:
        typer.Exit: FAILED after a `StreamingError`, USAGE after a `ConfigError`.
    """
    try:
        yield
    except StreamingError as exc:
        line = " ".join(str(exc).split()) or type(exc).__name__
        print_line(f"streaming: {line}", to_stderr=True)
        raise typer.Exit(USAGE if isinstance(exc, ConfigError) else FAILED) from exc
