"""GCS by both engines, against a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from streaming.config import DataSourceConfig
from streaming.sources import GCSDataSource
from streaming.sources.base import DataSource
from tests.contracts.source import Place, SourceContract
from tests.sources.gcs_server import GcsServer, gcs

__all__ = ["gcs"]  # a fixture


class _OnGcs(SourceContract):
    engine: str

    @pytest.fixture
    def bucket(self, gcs: GcsServer) -> str:
        """A new bucket, with an object beside the root."""
        bucket = gcs.make_bucket()
        gcs.put(bucket, "root %41x", b"not below the root")
        return bucket

    @pytest.fixture
    def place(self, gcs: GcsServer, bucket: str) -> Place:
        """Objects placed by the JSON API."""

        def place(path: str, data: bytes | None) -> None:
            if data is None:
                gcs.delete(bucket, f"root %41/{path}")
            else:
                gcs.put(bucket, f"root %41/{path}", data)

        return place

    @pytest.fixture
    async def source(self, gcs: GcsServer, bucket: str) -> AsyncIterator[DataSource]:
        """A source over a folder in the bucket, of a name that needs escaping."""
        options = {"endpoint_url": gcs.url}
        config = DataSourceConfig(
            "cloud", "gcs", f"gs://{bucket}/root %41", engine=self.engine, storage_options=options
        )
        async with GCSDataSource(config) as source:
            yield source


class TestGCSByObstore(_OnGcs):
    """Read by obstore."""

    engine = "obstore"


class TestGCSByGcsfs(_OnGcs):
    """Read by gcsfs."""

    engine = "gcsfs"
