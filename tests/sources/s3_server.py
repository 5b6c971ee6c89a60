"""A real S3 server for tests: each pytest process starts its own, at its first use, and ends it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.config import Config

from streaming.core.source_config import DataSourceConfig
from tests.conftest import SERVICES
from tests.loopback import held_ports

KEYS = {"aws_access_key_id": "testkey", "aws_secret_access_key": "testsecret"}


@dataclass(frozen=True)
class S3Server:
    """Ceph's object gateway at `url`; `client` is a plain one of boto3, logged in."""

    url: str
    client: Any

    def make_bucket(self, name: str) -> str:
        """Make an empty bucket."""
        self.client.create_bucket(Bucket=name)
        return name

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Write an object."""
        self.client.put_object(Bucket=bucket, Key=key, Body=data)

    def put_many(self, bucket: str, keys: list[str], data: bytes) -> None:
        """Write the same bytes under many keys, several at once."""
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda key: self.put(bucket, key, data), keys))

    def config(self, root: str, **settings: Any) -> DataSourceConfig:
        """The configuration of a source named `s3` over `root`, logged in unless the settings say otherwise."""
        options = {"endpoint_url": self.url, **settings.pop("storage_options", {})}
        given = {"credentials": KEYS, **settings}
        return DataSourceConfig("s3", "s3", root, storage_options=options, **given)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An empty S3 server at a free port of loopback."""
    folder = tmp_path_factory.mktemp("s3")
    with held_ports(2) as (port, monitor):
        command = ["bash", str(SERVICES / "start-s3.sh"), str(folder), str(port)]
        environment = {**os.environ, "MON_PORT": str(monitor)}
        try:
            started = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            url = started.stdout.strip().splitlines()[-1]
            config = Config(s3={"addressing_style": "path"}, max_pool_connections=16)
            client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=config, **KEYS)
            yield S3Server(url, client)
            client.close()
        finally:
            subprocess.run(["bash", str(SERVICES / "stop.sh"), str(folder)], check=True)
