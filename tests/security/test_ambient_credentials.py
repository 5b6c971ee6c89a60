"""A login that was found on this machine never goes to a server that only a configuration names.

The servers stand behind a proxy that records what would have reached them: a test can serve no foreign host.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from streaming.core.source_config import parse_source
from streaming.errors import AccessDenied, ConfigError, StreamingError
from streaming.sources import create_data_source
from streaming.sources.ambient_credentials import AMAZON, GOOGLE, HUGGING_FACE, may_receive_ambient_credentials
from streaming.sources.gcs.address import parse_address
from tests.fault_server import FaultServer

FOREIGN = "http://foreign.example"
TOKEN = "planted-found-token-0Kx8"
KEYS = {
    "AWS_ACCESS_KEY_ID": "PLANTEDKEY0KX8",
    "AWS_SECRET_ACCESS_KEY": "planted-secret-0Kx8",
    "AWS_SESSION_TOKEN": TOKEN,
}


@pytest.fixture
async def foreign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[FaultServer]:
    """A server that answers for every host but loopback, on a machine with no credentials but those of the test."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "HF_", "GOOGLE_", "STORAGE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    async with FaultServer() as server:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        monkeypatch.setenv("http_proxy", server.url)
        yield server


async def tried(settings: dict[str, Any]) -> StreamingError:
    """The error of reading and listing a source that nothing answers for."""
    async with create_data_source(parse_source(settings)) as source:
        with pytest.raises(StreamingError):
            await source.list_files()
        with pytest.raises(StreamingError) as caught:
            await source.read("a.bin")
    return caught.value


def received(server: FaultServer) -> str:
    """All that was sent, as text."""
    return "\n".join(f"{request.method} {request.target} {request.headers}" for request in server.requests)


@pytest.mark.parametrize("options", [{}, {"token": None}, {"token": True}])
async def test_a_foreign_hub_gets_no_token(
    foreign: FaultServer, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Not that of HF_TOKEN, also where the configuration asks for it; what was withheld is said once."""
    settings = {"type": "huggingface", "name": "hub", "path": "org/data"}
    caplog.set_level(logging.WARNING, "streaming")
    error = await tried({**settings, "storage_options": {"endpoint": FOREIGN, **options}})
    assert TOKEN not in received(foreign)
    if options.get("token"):
        assert isinstance(error, AccessDenied)
        assert "set HF_ENDPOINT" in str(error)
    else:
        assert foreign.requests
        assert any(record.getMessage().startswith("login_withheld source=hub") for record in caplog.records)


async def test_a_hub_gets_the_token_that_its_configuration_holds(foreign: FaultServer) -> None:
    """Such a token goes where the configuration says."""
    settings = {"type": "huggingface", "name": "hub", "path": "org/data", "credentials": {"token": "planted-own"}}
    await tried({**settings, "storage_options": {"endpoint": FOREIGN}})
    assert "Bearer planted-own" in received(foreign)


async def test_the_hub_of_the_environment_gets_no_token_in_the_clear(
    foreign: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HF_ENDPOINT names it, yet without TLS everybody between reads along."""
    monkeypatch.setenv("HF_ENDPOINT", FOREIGN)
    await tried({"type": "huggingface", "name": "hub", "path": "org/data"})
    assert foreign.requests
    assert TOKEN not in received(foreign)


@pytest.mark.parametrize("engine", ["obstore", "aioboto3"])
@pytest.mark.parametrize("found", ["environment", "profile", "role"])
async def test_ambient_credentials_are_not_sent_to_a_foreign_s3_server(
    foreign: FaultServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str, found: str
) -> None:
    """The role of the machine is not requested either; the error names the options."""
    options = {"endpoint_url": FOREIGN}
    if found != "environment":
        for name in KEYS:
            monkeypatch.delenv(name)
    if found == "profile":
        keys = "".join(f"{name.lower()} = {value}\n" for name, value in KEYS.items())
        (tmp_path / "credentials").write_text(f"[train]\n{keys}")
        options["profile"] = "train"
    error = await tried(
        {"type": "s3", "name": "s3", "path": "s3://bucket", "engine": engine, "storage_options": options}
    )
    assert isinstance(error, AccessDenied)
    assert "set AWS_ENDPOINT_URL" in str(error)
    assert received(foreign) == ""


@pytest.mark.parametrize("engine", ["obstore", "aioboto3"])
async def test_configured_keys_are_sent_to_a_foreign_s3_server(foreign: FaultServer, engine: str) -> None:
    """They go where the configuration says, without a session token of the environment."""
    keys = {"key": "OWNKEY0KX8", "secret": "own-secret-0Kx8"}
    settings = {"type": "s3", "name": "s3", "path": "s3://bucket", "engine": engine, "credentials": keys}
    await tried({**settings, "storage_options": {"endpoint_url": FOREIGN}})
    assert "OWNKEY0KX8" in received(foreign)
    assert TOKEN not in received(foreign)


@pytest.mark.parametrize(
    "settings",
    [
        {"path": "s3://bucket", "storage_options": {"region": "x.foreign.example/"}},
        {"path": "s3://foreign.example#/x", "storage_options": {"addressing_style": "virtual"}},
        {"path": "s3://foreign.example?/x", "storage_options": {"addressing_style": "virtual"}},
        {"path": "s3://me@foreign/x", "storage_options": {"addressing_style": "virtual"}},
    ],
)
def test_neither_region_nor_bucket_names_another_host(settings: dict[str, Any]) -> None:
    """Both stand in the host's name, where such characters end it early."""
    with pytest.raises(ConfigError, match="can be called"):
        create_data_source(parse_source({"type": "s3", "name": "s3", **settings}))


@pytest.mark.parametrize("engine", ["obstore", "gcsfs"])
async def test_a_foreign_gcs_server_is_read_without_a_found_login(
    foreign: FaultServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str
) -> None:
    """Application default credentials stay here; where the configuration asks for a login of the machine, it is
    refused with the ways out, also over TLS."""
    login = {"type": "authorized_user", "client_id": "c", "client_secret": TOKEN, "refresh_token": TOKEN}
    (tmp_path / "adc.json").write_text(json.dumps(login))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "adc.json"))
    settings = {"type": "gcs", "name": "gcs", "path": "gs://bucket", "engine": engine}
    await tried({**settings, "storage_options": {"endpoint_url": FOREIGN}})
    assert foreign.requests
    assert "authorization" not in received(foreign)
    for login_of_machine in ("google_default", "cloud", str(tmp_path / "adc.json")):
        for url in (FOREIGN, "https://foreign.example"):
            options = {"endpoint_url": url, "token": login_of_machine}
            with pytest.raises(ConfigError, match="STORAGE_EMULATOR_HOST"):
                create_data_source(parse_source({**settings, "storage_options": options}))
    config = parse_source({**settings, "storage_options": {"endpoint_url": "https://foreign.example"}})
    assert parse_address(config).login.kind == "anon"  # there is no server to look at for TLS


@pytest.mark.parametrize(
    ("endpoint", "named", "is_trusted"),
    [
        ("https://huggingface.co", None, True),
        ("https://HuggingFace.co:443/", None, True),
        ("http://huggingface.co", None, False),
        ("https://huggingface.co.foreign.example", None, False),
        ("https://foreign.example/huggingface.co", None, False),
        ("https://huggingface.co@foreign.example", None, False),
        ("https://foreign.example\\@huggingface.co", None, False),
        ("https://foreign.example#@huggingface.co", None, False),
        ("https://mirror.example/hub", "https://mirror.example/hub/", True),
        ("https://mirror.example:443/hub", "https://MIRROR.example/hub", True),
        ("https://mirror.example/other", "https://mirror.example/hub", False),
        ("https://mirror.example:8443/hub", "https://mirror.example/hub", False),
        ("http://mirror.example/hub", "http://mirror.example/hub", False),
        ("http://mirror.example/hub", "https://mirror.example/hub", False),
        ("http://127.0.0.1:9000", None, True),
        ("http://[::1]:9000/", None, True),
        ("http://localhost:9000", None, True),
        ("http://foreign.example\\@127.0.0.1", None, False),
        ("http://localhost.foreign.example", None, False),
        ("http://10.0.0.1:9000", None, False),
        ("http://169.254.169.254", None, False),
        ("http://[broken", None, False),
        ("ftp://localhost", None, False),
    ],
)
def test_who_may_get_a_found_login(endpoint: str, named: str | None, is_trusted: bool) -> None:
    """The provider and who the environment names, over TLS, and loopback; no spelling leads elsewhere."""
    assert may_receive_ambient_credentials(endpoint, HUGGING_FACE, [named]) == is_trusted


@pytest.mark.parametrize(
    ("provider", "host", "is_trusted"),
    [
        (AMAZON, "s3.amazonaws.com", True),
        (AMAZON, "s3.eu-west-1.amazonaws.com", True),
        (AMAZON, "s3-us-west-2.amazonaws.com", True),
        (AMAZON, "s3.dualstack.us-gov-west-1.amazonaws.com", True),
        (AMAZON, "s3-fips.us-east-1.amazonaws.com", True),
        (AMAZON, "s3-accelerate.amazonaws.com", True),
        (AMAZON, "s3.cn-north-1.amazonaws.com.cn", True),
        (AMAZON, "bucket.vpce-1a2b-3c4d.s3.us-east-1.vpce.amazonaws.com", True),
        (AMAZON, "s3-foreign-1234.us-east-1.elb.amazonaws.com", False),
        (AMAZON, "s3.execute-api.us-east-1.amazonaws.com", False),
        (AMAZON, "ec2-1-2-3-4.compute-1.amazonaws.com", False),
        (AMAZON, "s3.amazonaws.com.foreign.example", False),
        (GOOGLE, "storage.googleapis.com", True),
        (GOOGLE, "storage.europe-west3.rep.googleapis.com", True),
        (GOOGLE, "storage.googleapis.com.foreign.example", False),
        (GOOGLE, "foreign.storage.googleapis.com", False),
    ],
)
def test_which_hosts_are_the_providers(provider: Any, host: str, is_trusted: bool) -> None:
    """By their whole names: many hosts below amazonaws.com are those of customers."""
    assert may_receive_ambient_credentials(f"https://{host}", provider) == is_trusted
