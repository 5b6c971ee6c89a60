"""`streaming doctor` says what works, and the likely cause of what does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streaming.cli.app import app
from tests.conftest import WebServer
from tests.fault_server import FaultServer, respond
from tests.sources.s3_server import KEYS, S3Server, s3

__all__ = ["s3"]  # the fixture


def findings(*arguments: str | Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and each check's last finding."""
    result = CliRunner().invoke(app, ["doctor", "--json", *map(str, arguments)])
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return result.exit_code, {line["check"]: line for line in lines}


@pytest.fixture
def copies(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with the same names and bytes."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        for number in range(5):
            (tmp_path / name / f"{number}.bin").write_bytes(b"x" * number)
    return tmp_path / "first", tmp_path / "second"


def test_a_folder_that_works(copies: tuple[Path, Path]) -> None:
    """Listing, latency and throughput are told; a folder has no endpoint, clock or credentials."""
    code, found = findings(copies[0])
    assert code == 0
    assert list(found) == ["source", "list", "samples", "read"]
    assert found["samples"]["detail"] == "5 of 5 objects can be samples"
    assert found["list"]["detail"].startswith("5 objects in ")
    assert "p95" in found["read"]["detail"]


def test_objects_that_cannot_be_samples(copies: tuple[Path, Path]) -> None:
    """Some are counted with a warning; where none can be a sample the check fails and says what to do."""
    for name in ("a.csv", "b.csv", ".hidden"):
        (copies[0] / name).touch()
    (copies[0] / "link.bin").symlink_to("nothing.bin")
    code, found = findings(copies[0])
    assert (code, found["samples"]["outcome"]) == (0, "warning")
    for told in ("5 of 9 objects can be samples", ".csv 2", "1 hidden", "1 that link to nothing"):
        assert told in found["samples"]["detail"]
    for path in copies[0].glob("*.bin"):
        path.unlink()
    code, found = findings(copies[0])
    assert (code, found["samples"]["outcome"]) == (1, "failed")
    assert "register_codec" in found["samples"]["detail"]


def test_a_listing_that_is_left_early(tmp_path: Path) -> None:
    """Of a large source the first objects are looked at, and the finding says what is not known then."""
    for number in range(1001):
        (tmp_path / f"{number}.bin").touch()
    (tmp_path / "\\odd.bin").touch()
    code, found = findings(tmp_path)
    assert code == 0
    assert "1000 of 1000 objects can be samples; the listing was left early" in found["samples"]["detail"]


def test_metadata_among_samples(copies: tuple[Path, Path]) -> None:
    """What is named like metadata and would become a sample is told."""
    (copies[0] / "metadata.json").touch()
    code, found = findings(copies[0])
    assert (code, found["samples"]["outcome"]) == (0, "warning")
    assert "metadata.json" in found["samples"]["detail"]


def test_a_web_server_that_works(nginx: WebServer) -> None:
    """Connecting and the server's clock are told too."""
    folder = nginx.root / "doctor"
    folder.mkdir(exist_ok=True)
    (folder / "a.bin").write_bytes(b"x" * 1000)
    code, found = findings(f"{nginx.url}doctor/")
    assert code == 0
    assert {finding["outcome"] for finding in found.values()} == {"ok"}
    assert "accepts connections" in found["endpoint"]["detail"]
    assert found["clock"]["detail"].startswith("differs from the server's by")


def test_nobody_there() -> None:
    """A port that nobody listens at is named, with what that mostly means."""
    code, found = findings("http://127.0.0.1:1/x/")
    assert code == 1
    assert "127.0.0.1:1 cannot be reached" in found["endpoint"]["detail"]
    assert "the server is down" in found["endpoint"]["cause"]
    assert found["read"]["outcome"] == "left out"


def test_a_missing_folder(tmp_path: Path) -> None:
    """What does not exist is not called refused."""
    code, found = findings(tmp_path / "none")
    assert code == 1
    assert "nothing was found" in found["list"]["cause"]


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    """A server that answers as told."""
    async with FaultServer() as server:
        yield server


async def test_a_refused_login(server: FaultServer) -> None:
    """403 is a refused login, and the credentials that were found are named without their values."""
    server.answers["/"] = respond(403)
    url = server.url.replace("http://", "http://bob:planted-secret@")
    result = await asyncio.to_thread(CliRunner().invoke, app, ["doctor", url])
    assert result.exit_code == 1
    assert "the login was refused" in result.stdout
    assert "planted-secret" not in result.output


async def test_clocks_that_differ(server: FaultServer) -> None:
    """A clock that is off by years is told, as signatures fail then."""
    server.answers["/"] = respond(Date="Mon, 01 Jan 2001 00:00:00 GMT")
    code, found = await asyncio.to_thread(findings, server.url)
    assert code == 1
    assert "set this clock" in found["clock"]["detail"]


def test_mirrors_that_agree_and_that_do_not(copies: tuple[Path, Path]) -> None:
    """Copies are compared by name and size; what differs is named."""
    code, found = findings("--mirrors", *copies)
    assert code == 0
    assert found["mirror"]["detail"].startswith("5 names have the same sizes")
    (copies[1] / "1.bin").unlink()
    (copies[1] / "2.bin").write_bytes(b"longer")
    (copies[1] / "new.bin").write_bytes(b"")
    code, found = findings("--mirrors", *copies)
    assert code == 1
    for told in (
        "1 missing (first '1.bin')",
        "1 not in the other (first 'new.bin')",
        "1 of another size (first '2.bin')",
    ):
        assert told in found["mirror"]["detail"]


def test_variables_are_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of the environment are found by name; where the endpoint comes from the environment it is asked."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "planted-secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    result = CliRunner().invoke(app, ["doctor", "s3://bucket/x"])
    assert "AWS_ACCESS_KEY_ID (environment)" in result.stdout
    assert "127.0.0.1:1 cannot be reached" in result.stdout
    assert "planted-secret" not in result.output


def test_a_bucket_that_is_there_and_one_that_is_not(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With keys of the environment a bucket is read; a missing one, and wrong keys, are told apart."""
    s3.make_bucket("doctor")
    s3.put("doctor", "a.bin", b"x" * 1000)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS["aws_secret_access_key"])
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    code, found = findings("s3://doctor")
    assert code == 0, found
    assert found["list"]["detail"].startswith("1 objects in ")
    code, found = findings("s3://no-such-bucket")
    assert code == 1
    assert "nothing was found" in found["list"]["cause"]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    result = CliRunner().invoke(app, ["doctor", "s3://doctor"])
    assert result.exit_code == 1
    assert "the login was refused" in result.stdout
    assert "planted-secret" not in result.output
