"""The metrics pushed to a Pushgateway: for batch clusters whose nodes cannot be scraped.

Each rank has its own group there, by job, rank and instance; a push replaces all numbers of its group. The gateway
keeps the last ones after the process has ended.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit

from prometheus_client import CollectorRegistry, push_to_gateway
from prometheus_client.exposition import basic_auth_handler, default_handler

from streaming.errors import BadRequest, ConfigError, SourceUnavailable, StreamingError
from streaming.monitoring.metrics.collector import rank_of_process
from streaming.monitoring.metrics.periodic import Periodic
from streaming.monitoring.metrics.prometheus_registry import metrics_registry

__all__ = ["Pusher", "push"]


def push(
    url: str,
    job: str,
    registry: CollectorRegistry | None = None,
    *,
    instance: str | None = None,
    timeout_s: float = 10.0,
) -> None:
    """Push the metrics of this moment.

    Args:
        url: URL of the gateway, such as `http://pushgateway:9091`; it may contain a login.
        job: value of the label `job`, such as the name of the run.
        registry: see `metrics_registry`.
        instance: value of the label `instance`; None is the name of this machine.
        timeout_s: for each step of the request.

    Raises:
        ConfigError: the URL is not one of http or https, or the job is empty.
        SourceUnavailable: the gateway cannot be reached, or failed.
        BadRequest: the gateway refused the push.
    """
    place, handler = _place(url)
    if not job:
        raise ConfigError("job='' is empty: give the name of the run")
    group = {"instance": socket.gethostname() if instance is None else instance, "rank": rank_of_process()}
    try:
        push_to_gateway(place, job, metrics_registry(registry), group, timeout_s, handler)
    except (OSError, HTTPException, ValueError) as exc:
        raise _failure(place, exc) from exc


def _place(url: str) -> tuple[str, Callable[..., Any]]:
    """Return the URL without its login, and the function that sends to it."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        _ = parts.port  # checks it
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("the address of the Pushgateway is not a URL: give one such as http://pushgateway:9091")
    place = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    if parts.username is None:
        return place, default_handler
    handler: Callable[..., Any] = basic_auth_handler
    return place, partial(handler, username=unquote(parts.username), password=unquote(parts.password or ""))


def _failure(place: str, error: Exception) -> StreamingError:
    if isinstance(error, HTTPError):
        said = error.read(300).decode(errors="replace").strip()
        text = f"the Pushgateway {place} answered {error.code} {error.reason}: {said}"
        error.close()
        if error.code < 500:
            return BadRequest(f"{text}; check that it is a Pushgateway, and that this process may push to it")
    else:
        text = f"the Pushgateway {place} cannot be reached: {error}"
    return SourceUnavailable(f"{text}; check that it runs and that no firewall is in between")


class Pusher(Periodic):
    """Pushes the metrics every few seconds until `close()`, and then a last time. A context manager.

    While the gateway is down, one warning is logged; each later push tries again.

    Args:
        url, job, registry, instance: see `push`.
        every_s: seconds between two pushes.

    Raises:
        ConfigError: the URL or job cannot be used, or `every_s` is not above 0.
    """

    def __init__(
        self,
        url: str,
        job: str,
        every_s: float = 15.0,
        registry: CollectorRegistry | None = None,
        *,
        instance: str | None = None,
    ) -> None:
        _place(url)
        super().__init__("push", partial(push, url, job, metrics_registry(registry), instance=instance), every_s)
