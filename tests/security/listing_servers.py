"""Servers whose listings never end, by each protocol, and sources over them by each engine."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from streaming.sources import create_data_source
from streaming.sources.base import DataSource
from tests.fault_server import Answer, FaultServer, Request, respond

COMMIT = "c" * 40
S3_KEYS = {"aws_access_key_id": "testkey", "aws_secret_access_key": "testsecret"}
ENGINES = {
    "http": ("http", None),
    "s3 by obstore": ("s3", "obstore"),
    "s3 by aioboto3": ("s3", "aioboto3"),
    "gcs by obstore": ("gcs", "obstore"),
    "gcs by gcsfs": ("gcs", "gcsfs"),
    "huggingface": ("huggingface", None),
}
"""Name of each lister, with its source type and engine."""


class Always(dict[str, Answer]):
    """Answers of a server that answers each request in the same way."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    def get(self, key: str, default: Any = None) -> Answer:
        return self._answer


def source_over(url: str, lister: str, **settings: Any) -> DataSource:
    """A source named `bad` that asks the server at `url` for everything."""
    kind, engine = ENGINES[lister]
    settings = {"name": "bad", "type": kind, "engine": engine, **settings}
    if kind == "http":
        return create_data_source({"path": f"{url}data/", **settings})
    options: dict[str, Any] = {"endpoint_url": url.rstrip("/")}
    if kind == "s3":
        return create_data_source(
            {"path": "s3://bucket", "credentials": S3_KEYS, "storage_options": options, **settings}
        )
    if kind == "gcs":
        options["anon"] = True
        return create_data_source({"path": "gs://bucket", "storage_options": options, **settings})
    options = {"endpoint": url.rstrip("/"), "token": False, "revision": COMMIT}
    return create_data_source({"path": "org/data", "storage_options": options, **settings})


def endless(objects: int, folders: int = 0, *, loop: bool = False) -> Answer:
    """Answer each listing request with a page of new objects and folders that leads to another page.

    The page of a web server leads on through its folders, that of a Hub or a bucket through a link or token. With
    `folders`, a bucket lists objects inside them; a request for one level gets only the folders, and no next page.
    With `loop`, that request gets a single folder, the requested one itself.
    """
    counter = itertools.count()

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        base = f"http://{request.headers['host']}"
        asked = {name: values[0] for name, values in parse_qs(urlsplit(request.target).query).items()}
        number = next(counter)
        if request.target.startswith("/api/datasets"):
            await _hub(base, number, objects)(request, writer)
        elif request.target.startswith("/data/"):
            names = [f"{number}-{each}.bin" for each in range(objects)] + [f"f{each}/" for each in range(folders)]
            page = "<h1>Index of /</h1>" + "".join(f'<a href="{name}">x</a>\n' for name in names)
            await respond(body=page.encode(), Content_Type="text/html")(request, writer)
        else:
            prefix = asked.get("prefix", "")
            is_level = bool(folders) and "delimiter" in asked
            below = [f"{prefix}f{each}/" for each in range(folders)] if is_level else []
            below = [prefix] if is_level and loop else below
            names = [] if is_level else [_key(prefix, number, each, folders) for each in range(objects)]
            make = _gcs if "/o?" in request.target else _s3
            await respond(body=make(names, below, "" if is_level else f"t{number}"))(request, writer)

    return answer


def _key(prefix: str, number: int, each: int, folders: int) -> str:
    return f"{prefix}f{each % folders}/{number}-{each}.bin" if folders else f"{prefix}{number}-{each}.bin"


def _hub(base: str, number: int, objects: int) -> Answer:
    page = [{"type": "file", "path": f"{number}-{each}.bin", "size": 1, "oid": "a"} for each in range(objects)]
    if not page:
        page = [{"type": "directory", "path": f"{number}", "size": 0, "oid": "a"}]
    link = f'<{base}/api/datasets/org/data/tree/{COMMIT}?cursor={number}>; rel="next"'
    return respond(body=json.dumps(page).encode(), Link=link)


def _s3(names: list[str], folders: list[str], token: str) -> bytes:
    time = "<LastModified>2025-01-01T00:00:00.000Z</LastModified>"
    objects = "".join(f"<Contents><Key>{name}</Key><Size>1</Size>{time}</Contents>" for name in names)
    below = "".join(f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in folders)
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return f"<ListBucketResult><Name>bucket</Name>{more}{objects}{below}</ListBucketResult>".encode()


def _gcs(names: list[str], folders: list[str], token: str) -> bytes:
    page: dict[str, Any] = {"items": [{"name": name, "size": "1"} for name in names], "prefixes": folders}
    return json.dumps({**page, "nextPageToken": token} if token else page).encode()


def flood(head: bytes, piece: bytes) -> Answer:
    """Answers with an endless body without a length."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/html\r\n\r\n" + head)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()

    return answer


async def listed(source: DataSource) -> int:
    """The number of objects that a source lists."""
    async with source:
        return sum([1 async for _ in source.iter_files()])


ListServer = Callable[[Answer], FaultServer]


def serving(answer: Answer) -> FaultServer:
    """A server that answers everything in one way."""
    server = FaultServer()
    server.answers = Always(answer)
    return server
