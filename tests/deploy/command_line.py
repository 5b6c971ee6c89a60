"""Whether `streaming` takes the arguments that an image or a pod gives it."""

from __future__ import annotations

from collections.abc import Sequence

import typer.main

from streaming.cli.app import app


def check_command(words: Sequence[str]) -> None:
    """Raise unless the words are a command of `streaming` with arguments that it takes."""
    name, *rest = words
    typer.main.get_command(app).commands[name].make_context(name, rest)  # type: ignore[attr-defined]
