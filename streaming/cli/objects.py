"""`streaming ls` and `streaming get`: the objects of one source, as they are stored."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import typer

from streaming.cli.exit_codes import check_output
from streaming.cli.show import print_json, print_line
from streaming.errors import SourceError
from streaming.sources import create_data_source
from streaming.sources.base import Blob, FileInfo

__all__ = ["get_object", "list_objects"]


def list_objects(url: str, prefix: str, as_json: bool) -> None:
    """Print the objects below `url` as they are listed."""
    asyncio.run(_list(url, prefix, as_json))


async def _list(url: str, prefix: str, as_json: bool) -> None:
    async with create_data_source(url) as source:
        async for info in source.iter_files(prefix):
            if as_json:
                print_json({"path": info.path, "size": info.size, "etag": info.etag, "modified": info.modified})
            else:
                print_line(_line(info))
        if source.skipped:
            print_line(f"not listed: {source.skipped.describe()}", to_stderr=True)


def _line(info: FileInfo) -> str:
    size = "-" if info.size < 0 else str(info.size)
    return f"{size:>12}  {info.etag or '-':<34}  {info.path}"


def get_object(url: str, output: Path | None, as_json: bool) -> None:
    """Write the object at `url` to a file, or to standard output.

    Raises:
        ConfigError: the output is there and not a file.
        SourceError: it cannot be read, or the file cannot be written; then the file is as it was.
    """
    if output is not None:
        check_output(output)
    asyncio.run(_get(url, output, as_json))


async def _get(url: str, output: Path | None, as_json: bool) -> None:
    folder, name = _split(url)
    async with create_data_source(folder) as source:
        blob = await source.read(name)
    if output is None:
        typer.get_binary_stream("stdout").write(blob.data)
        return
    await _write_whole(output, blob)
    if as_json:
        print_json({"path": name, "size": len(blob.data), "etag": blob.etag, "output": str(output)})


def _split(url: str) -> tuple[str, str]:
    """The folder of a URL or path, which the source is made of, and the name in it; a query goes with the folder."""
    if "://" not in url:
        folder, slash, name = url.rpartition("/")
        return folder + slash or ".", name
    parts = urlsplit(url)
    folder, slash, name = parts.path.rpartition("/")
    return parts._replace(path=folder + slash, fragment="").geturl(), unquote(name)


async def _write_whole(output: Path, blob: Blob) -> None:
    """Write to a new file beside the output and put it in place, so that nobody ever sees a part."""
    import aiofiles
    import aiofiles.os

    try:
        handle, beside = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
        try:
            async with aiofiles.open(handle, "wb") as file:
                await file.write(blob.data)
            await asyncio.to_thread(_make_readable, beside)
            await aiofiles.os.replace(beside, output)
        except BaseException:
            os.unlink(beside)
            raise
    except OSError as exc:
        raise SourceError(f"{output}: cannot be written ({exc.strerror}); give another file with -o") from exc


def _make_readable(path: str) -> None:
    """Give a temporary file, which is private, the mode that a new file gets."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)
