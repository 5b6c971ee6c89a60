"""`streaming ls`: the objects of one source."""

from __future__ import annotations

import asyncio

from streaming.cli.printing import print_json, print_line
from streaming.sources import create_data_source
from streaming.sources.base import FileInfo

__all__ = ["list_objects"]


def list_objects(url: str, prefix: str, as_json: bool) -> None:
    """Print the objects below `url` while they are listed."""
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
