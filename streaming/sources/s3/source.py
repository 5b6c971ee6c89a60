"""Objects in a bucket of S3, Amazon's or any server with the same protocol.

Reads go through obstore: 7,100 requests/s of 100 kB on one core over loopback, vs. 800/s by aioboto3.
`engine="aioboto3"` is for what only boto has: its credential chains, plug-ins and search for regions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from importlib.util import find_spec
from typing import TYPE_CHECKING

from streaming.errors import MissingExtra
from streaming.sources.base import Blob, DataSource, FileInfo, check_path, check_prefix, check_range
from streaming.sources.s3.address import parse_address
from streaming.telemetry.skipped_objects import Skips

if TYPE_CHECKING:
    from streaming.core.source_config import DataSourceConfig
    from streaming.sources.obstore.reader import ObjectStoreReader
    from streaming.sources.s3.aioboto3_engine import Aioboto3Reader


class S3DataSource(DataSource):
    """A bucket, or a folder in it: `s3://bucket/folder`, also written `bucket/folder`.

    Login, endpoint and region come from the configuration, then from `AWS_*` in the environment, then from a profile in
    AWS's own files; the login finally from the role of the machine. They are looked up at the first read, and again
    when the server says that a login has expired.

    `credentials`: `aws_access_key_id`, `aws_secret_access_key`, `aws_session_token`; s3fs's `key`, `secret`, `token`
    too. `storage_options`: `endpoint_url`, `region`, `profile`, `anon`, `requester_pays`, `addressing_style` (`auto`,
    `path`, `virtual`), `versions` ({path: version}), `credential_provider` (a function, async or not, that returns keys
    and their expiry), and `client_kwargs` as s3fs has it.

    A forked child cannot use a source that its parent opened: it gets `ClosedError`, where the client would hang.

    Raises:
        ConfigError: when made, for an unknown engine, option or credential, two logins, or a URL without a bucket.
        MissingExtra: when made, if the engine's package is not installed.
    """

    def __init__(self, config: DataSourceConfig) -> None:
        super().__init__(config)
        address = parse_address(config)
        self._reader: ObjectStoreReader | Aioboto3Reader
        if config.engine == "aioboto3":
            if find_spec("aioboto3") is None:
                text = f"engine 'aioboto3' of source {self.name!r} is not installed: pip install 'aiprod-streaming[s3]'"
                raise MissingExtra(text, source=self.name)
            from streaming.sources.s3.aioboto3_engine import Aioboto3Reader

            self._reader = Aioboto3Reader(config, address, self._receive)
        else:
            from streaming.sources.obstore.reader import ObjectStoreReader
            from streaming.sources.s3.obstore_engine import S3Stores

            stores = S3Stores(config, address)
            self._reader = ObjectStoreReader(config, stores, address.prefix, self._receive, address.versions)

    async def read(self, path: str, start: int = 0, end: int | None = None) -> Blob:
        if self._closed:
            self._check_open()
        check_path(path)
        if start or end is not None:
            check_range(path, start, end, self.name)
        return await self._reader.get(path, start, end)

    async def iter_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        self._check_open()
        skips = Skips()
        async with aclosing(self._reader.iter_files(check_prefix(prefix), skips)) as files:
            async for info in files:
                yield info
        self.skipped = skips

    async def aclose(self) -> None:
        self._closed = True
        await self._reader.aclose()
