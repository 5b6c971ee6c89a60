"""Scrape metrics over HTTP from servers given by URL or by the PID of a run."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from streaming.cli.process_sockets import descendants, listening
from streaming.core.masking import mask_secrets
from streaming.errors import (
    BadRequest,
    ConfigError,
    DecodeError,
    ObjectNotFoundError,
    SourceError,
    SourceTimeout,
    SourceUnavailable,
    StreamingError,
)
from streaming.monitoring.diagnosis import Scrape, merge, parse

__all__ = ["Scraper", "find_urls"]

TIMEOUT_S = 5.0
_PROBE_S = 1.0  # for a local socket that may be anything
_MOST_BYTES = 64 * 10**6
_USUAL_PORT = 8000
_AT_ONCE = 16
_NEXT_STEP = "call streaming.start_metrics_server() in it"


def find_urls(target: str) -> list[str]:
    """Return the URLs at which the metrics of a run are served.

    Args:
        target: a URL, `host:port`, or the PID of a run or of its parent: all descendants count too.

    Raises:
        ConfigError: the target is neither.
        ObjectNotFoundError, AccessDenied: there is no such process, it belongs to another user, or serves no metrics.
    """
    if target.isdecimal():
        return _urls_of_process(int(target))
    parts = urlsplit(target if "://" in target else f"http://{target}")
    try:
        port, host = parts.port, parts.hostname
    except ValueError:
        port, host = None, None
    if parts.username is not None:
        raise ConfigError(f"{mask_secrets(target)}: use a URL without login, such as http://127.0.0.1:8000")
    is_url = parts.scheme in ("http", "https") and host and target.isprintable() and " " not in target
    if not is_url or ("://" not in target and port is None):
        raise ConfigError(
            f"{mask_secrets(target)!r} is neither a PID nor the URL of a metrics server, like http://127.0.0.1:8000"
        )
    return [parts._replace(path="/metrics").geturl() if parts.path in ("", "/") else parts.geturl()]


def _urls_of_process(pid: int) -> list[str]:
    seen: set[str] = set()  # workers inherit the sockets of the process that forked them
    found = []
    for each in descendants(pid):
        try:
            sockets = listening(each)
        except StreamingError:
            if each == pid:
                raise
            continue  # it has ended, or belongs to another user now
        # Ports of others, such as torch.distributed, are better not disturbed: the usual port first.
        candidates = sorted(
            (abs(port - _USUAL_PORT), host, port) for inode, (host, port) in sockets.items() if inode not in seen
        )
        seen |= sockets.keys()
        urls = (f"http://{host}:{port}/metrics" for _, host, port in candidates)
        found += [url for url in [next(filter(_serves_metrics, urls), None)] if url is not None]
    if not found:
        raise ObjectNotFoundError(f"process {pid} and its descendants serve no metrics: {_NEXT_STEP}, or give a URL")
    return found


def _serves_metrics(url: str) -> bool:
    try:
        return bool(scrape(url, _PROBE_S).ranks)
    except StreamingError:
        return False


def scrape(url: str, timeout_s: float = TIMEOUT_S) -> Scrape:
    """Return the metrics of a server.

    Raises:
        SourceUnavailable, SourceTimeout: the server does not answer.
        BadRequest: the server does not speak HTTP.
        ObjectNotFoundError: the path does not exist, or has no metric of this library.
        DecodeError: the answer is not in the text format of Prometheus.
    """
    shown = mask_secrets(url)
    try:
        found = parse(_get(url, timeout_s))
    except DecodeError as exc:
        raise DecodeError(f"{shown}: {exc}") from exc
    except urllib.error.HTTPError as exc:
        raise _refusal(shown, exc.code) from exc
    except TimeoutError as exc:
        raise SourceTimeout(f"{shown} did not answer within {timeout_s:g} s: the process hangs or is stopped") from exc
    except (http.client.HTTPException, ValueError) as exc:
        raise BadRequest(f"the server at {shown} does not speak HTTP: give the port of the metrics server") from exc
    except OSError as exc:
        reason = getattr(exc, "reason", exc)
        if isinstance(reason, TimeoutError):
            raise SourceTimeout(
                f"{shown} did not accept a connection within {timeout_s:g} s: is the host right?"
            ) from exc
        raise SourceUnavailable(f"{shown} cannot be reached ({reason}): is the run alive? Then {_NEXT_STEP}") from exc
    if not found.ranks:
        raise ObjectNotFoundError(f"{shown} serves no metrics of this library: give another port, or {_NEXT_STEP}")
    return found


def _refusal(shown: str, status: int) -> SourceError:
    if status == 404:
        return ObjectNotFoundError(f"{shown}: not found (404); metrics are usually at /metrics")
    return SourceUnavailable(f"{shown} answered {status}: see the log of the run")


def _get(url: str, timeout_s: float) -> str:
    """Read a URL without a proxy, as metrics are served on this machine or cluster."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers={"Accept": "text/plain"}), timeout=timeout_s) as answer:
        body: bytes = answer.read(_MOST_BYTES)
    return body.decode("utf-8", "replace")


class Scraper:
    """Scrape the same servers repeatedly.

    Args:
        targets: PIDs and URLs.

    Attributes:
        urls: URLs of the servers.

    Raises:
        StreamingError: see `find_urls`.
    """

    def __init__(self, targets: Sequence[str]) -> None:
        self.urls = list(dict.fromkeys(url for target in targets for url in find_urls(target)))

    def first(self) -> Scrape:
        """Scrape all servers.

        Raises:
            StreamingError: a server does not answer.
        """
        return merge(zip(self._names(), self._scrape_all(strict=True), strict=True))

    def again(self) -> Scrape:
        """Scrape the servers that still answer; the result is empty if none does."""
        scrapes = self._scrape_all(strict=False)
        return merge(pair for pair in zip(self._names(), scrapes, strict=True))

    def _names(self) -> list[str]:
        return [urlsplit(url).netloc.rpartition("@")[2] for url in self.urls]

    def _scrape_all(self, *, strict: bool) -> list[Scrape]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(scrape if strict else _scrape_or_none, self.urls))


def _scrape_or_none(url: str) -> Scrape:
    try:
        return scrape(url)
    except StreamingError:
        return Scrape(time.time())
