"""One source of each kind and engine that reads over a network, over a server of the tests' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streaming.core.source_config import DataSourceConfig
from streaming.sources import create_data_source
from streaming.sources.base import DataSource

COMMIT = "0123456789abcdef0123456789abcdef01234567"
KEYS = {"key": "testkey", "secret": "testsecret", "token": "session-secret"}

Make = Callable[..., DataSource]


def _http(engine: str) -> Make:
    def make(url: str, **settings: Any) -> DataSource:
        return create_data_source(DataSourceConfig("web", "http", f"{url}root/", engine=engine, **settings))

    return make


def _s3(engine: str) -> Make:
    def make(url: str, **settings: Any) -> DataSource:
        options = {"endpoint_url": url, **settings.pop("storage_options", {})}
        given = {"credentials": KEYS, "engine": engine, "storage_options": options, **settings}
        return create_data_source(DataSourceConfig("s3", "s3", "s3://bucket/root", **given))

    return make


def _gcs(engine: str) -> Make:
    def make(url: str, **settings: Any) -> DataSource:
        options = {"endpoint_url": url.removesuffix("/"), **settings.pop("storage_options", {})}
        given = {"credentials": {"token": "gcs-secret"}, "engine": engine, "storage_options": options, **settings}
        return create_data_source(DataSourceConfig("gcs", "gcs", "gs://bucket/root", **given))

    return make


def _hub(url: str, **settings: Any) -> DataSource:
    options = {"endpoint": url.removesuffix("/"), **settings.pop("storage_options", {})}
    given = {"credentials": {"token": "hf_secret"}, "storage_options": options, **settings}
    return create_data_source(DataSourceConfig("hub", "huggingface", f"hf://datasets/org/data@{COMMIT}", **given))


ENGINES: dict[str, Make] = {
    "http-obstore": _http("obstore"),
    "http-aiohttp": _http("aiohttp"),
    "s3-obstore": _s3("obstore"),
    "s3-aioboto3": _s3("aioboto3"),
    "gcs-obstore": _gcs("obstore"),
    "gcs-gcsfs": _gcs("gcsfs"),
    "hub": _hub,
}

each_engine = pytest.mark.parametrize("engine", list(ENGINES))
