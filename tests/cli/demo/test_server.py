from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from streaming.cli.demo.server import SlowServer


def _get(url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(url, headers=headers or {})
    with urllib.request.urlopen(request) as answer:
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.headers.items()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder to serve, with a secret next to it."""
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "root"
    (folder / "events").mkdir(parents=True)
    (folder / "events" / "a.json").write_bytes(b"0123456789")
    (folder / "events" / "b c#.json").write_bytes(b"x")
    return folder


def test_files_ranges_and_listing(root: Path) -> None:
    """Files come whole or by range with an ETag, folders as a list of links with sizes."""
    with SlowServer(root, 0) as server:
        status, body, headers = _get(server.url + "events/a.json")
        assert (status, body, headers["content-length"]) == (200, b"0123456789", "10")
        assert headers["etag"]
        assert _get(server.url + "events/a.json", {"Range": "bytes=2-4"})[:2] == (206, b"234")
        listing = _get(server.url + "events/")[1].decode()
        assert 'href="b%20c%23.json"' in listing
        assert server.requests == 3


@pytest.mark.parametrize(("path", "status"), [("events/none.json", 404), ("%2e%2e/secret", 403)])
def test_refusals(root: Path, path: str, status: int) -> None:
    """A missing file is 404, and nothing outside the folder is served."""
    with SlowServer(root, 0) as server, pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(server.url + path)
    assert error.value.code == status
    error.value.close()


def test_latency_is_paid_side_by_side(root: Path) -> None:
    """Each answer takes at least the latency, and twenty at once take less than half of twenty."""
    with SlowServer(root, 0.5) as server, ThreadPoolExecutor(20) as pool:
        began = time.perf_counter()
        list(pool.map(_get, [server.url + "events/a.json"] * 20))
        assert 0.5 <= time.perf_counter() - began < 5.0


def test_nothing_is_left_running(root: Path) -> None:
    """After the block the port is closed and the thread is gone, also when the block failed."""
    with pytest.raises(RuntimeError, match="inside"), SlowServer(root, 0) as server:
        raise RuntimeError("inside")
    assert not any(thread.name == "demo-server" for thread in threading.enumerate())
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(server.url)
