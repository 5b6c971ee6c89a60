"""Epochs over stores of different kinds that are replicas, one of which dies or revokes access."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from streaming.adapter import StreamingDatasetAdapter
from tests.conftest import WebServer
from tests.relay import Relay
from tests.sources.gcs_server import GcsServer, gcs
from tests.sources.s3_server import KEYS, S3Server, s3

__all__ = ["gcs", "s3"]  # the fixtures

NAMES = [f"{number:03d}.bin" for number in range(48)]


@pytest.fixture
def bucket(s3: S3Server, gcs: GcsServer, nginx: WebServer, tmp_path: Path) -> str:
    """Return the name of a bucket of S3, and of a folder of the web server, with the same objects."""
    name = f"replicas-{tmp_path.name.replace('_', '-').lower()}"[:60].rstrip("-")
    s3.make_bucket(name)
    (nginx.root / name).mkdir()
    for object_name in NAMES:
        s3.put(name, object_name, object_name.encode() * 100)
        (nginx.root / name / object_name).write_bytes(object_name.encode() * 100)
    return name


def check(adapter: StreamingDatasetAdapter, positions: range) -> None:
    assert [adapter[i]["data"] for i in positions] == [NAMES[i].encode() * 100 for i in positions]


@pytest.mark.parametrize("engine", ["obstore", "aioboto3"])
def test_s3_dies_and_the_web_server_takes_over(s3: S3Server, nginx: WebServer, bucket: str, engine: str) -> None:
    """Half of the epoch comes from the bucket, the rest from the mirror, in order and whole."""
    with Relay(s3.url) as relay:
        source = {
            "name": "data",
            "path": f"s3://{bucket}",
            "engine": engine,
            "credentials": KEYS,
            "storage_options": {"endpoint_url": relay.url.rstrip("/")},
            "mirrors": [f"{nginx.url}{quote(bucket)}/"],
        }
        with StreamingDatasetAdapter(source) as adapter:
            check(adapter, range(24))
            relay.kill()
            check(adapter, range(24, 48))


def test_a_revoked_login(s3: S3Server, gcs: GcsServer, bucket: str) -> None:
    """When S3 starts to deny access, objects come from the replica in GCS."""
    replica = gcs.make_bucket()
    for name in NAMES:
        gcs.put(replica, name, name.encode() * 100)
    source = {
        "name": "data",
        "path": f"s3://{bucket}",
        "credentials": KEYS,
        "storage_options": {"endpoint_url": s3.url},
        "mirrors": [{"path": f"gs://{replica}", "storage_options": {"endpoint_url": gcs.url, "anon": True}}],
    }
    with StreamingDatasetAdapter(source) as adapter:
        check(adapter, range(24))
        deny = '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:GetObject",'
        s3.client.put_bucket_policy(Bucket=bucket, Policy=f'{deny}"Resource":"arn:aws:s3:::{bucket}/*"}}]}}')
        check(adapter, range(24, 48))
