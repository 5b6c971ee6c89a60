"""`streaming get`: one object, as it is stored."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import unquote, urlsplit

import typer

from streaming.cli.exit_codes import check_output
from streaming.cli.printing import print_json
from streaming.core.atomic_write import replacing
from streaming.errors import SourceError
from streaming.sources import create_data_source
from streaming.sources.base import Blob

__all__ = ["get_object"]


def get_object(url: str, output: Path | None, as_json: bool) -> None:
    """Write the object at `url` to a file, or to standard output.

    Raises:
        ConfigError: the output exists and is not a file.
        SourceError: the object cannot be read, or the file cannot be written, which then stays unchanged.
    """
    if output is not None:
        check_output(output)
    folder, name = _split(url)
    blob = asyncio.run(_read(folder, name))
    if output is None:
        typer.get_binary_stream("stdout").write(blob.data)
        return
    try:
        with replacing(output, mode=0o666) as file:
            file.write(blob.data)
    except OSError as exc:
        raise SourceError(f"{output}: cannot be written ({exc.strerror}); give another file with -o") from exc
    if as_json:
        print_json({"path": name, "size": len(blob.data), "etag": blob.etag, "output": str(output)})


async def _read(folder: str, name: str) -> Blob:
    async with create_data_source(folder) as source:
        return await source.read(name)


def _split(url: str) -> tuple[str, str]:
    """Split a URL or path into the folder, which makes the source, and the name; a query stays with the folder."""
    if "://" not in url:
        folder, slash, name = url.rpartition("/")
        return folder + slash or ".", name
    parts = urlsplit(url)
    folder, slash, name = parts.path.rpartition("/")
    return parts._replace(path=folder + slash, fragment="").geturl(), unquote(name)
