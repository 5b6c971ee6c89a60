"""Check a command line of `streaming` in an image or a pod."""

from __future__ import annotations

from collections.abc import Sequence

import typer.main

from streaming.cli.app import app


def check_command(words: Sequence[str]) -> None:
    """Raise unless the words are a command of `streaming` with arguments that it accepts."""
    name, *rest = words
    typer.main.get_command(app).commands[name].make_context(name, rest)  # type: ignore[attr-defined]
