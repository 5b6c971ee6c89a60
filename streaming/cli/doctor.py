"""`streaming doctor`: what works between here and a source, and the likely cause where something does not."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from itertools import cycle, islice
from pathlib import Path
from statistics import quantiles
from urllib.parse import urlsplit

import typer

from streaming.cli.exit_codes import FAILED
from streaming.cli.printing import human_bytes, print_json, print_line
from streaming.core.source_config import DataSourceConfig, parse_source
from streaming.errors import (
    AccessDenied,
    BadRequest,
    MissingExtra,
    NoSamples,
    ObjectNotFoundError,
    SourceTimeout,
    SourceUnavailable,
    StreamingError,
)
from streaming.index.listing import Listing, fill
from streaming.index.object_report import check_readable, left_out, unlikely_samples
from streaming.sources import create_data_source
from streaming.sources.base import DataSource, FileInfo
from streaming.telemetry.skipped_objects import BY_SETTINGS

__all__ = ["examine"]

MOST_LISTED = 1000  # objects of a listing that are checked
READS = 32
AT_ONCE = 16
READ_BYTES = 1 << 20  # of each object at most
MOST_SKEW_S = 300.0  # S3 refuses signatures that are 15 minutes off; 5 allow for drift
CONNECT_S = 5.0

OK, WARNING, FAILED_, LEFT_OUT = "ok", "warning", "failed", "left out"

_VARIABLES = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"),
    "gcs": ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"),
    "huggingface": ("HF_TOKEN", "HF_TOKEN_PATH"),
}
_LOGIN_FILES = {
    "s3": "~/.aws/credentials",
    "gcs": "~/.config/gcloud/application_default_credentials.json",
    "huggingface": "~/.cache/huggingface/token",
}
_ENDPOINTS = {
    "s3": (("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), "https://s3.amazonaws.com"),
    "gcs": (("STORAGE_EMULATOR_HOST",), "https://storage.googleapis.com"),
    "huggingface": (("HF_ENDPOINT",), "https://huggingface.co"),
}
_CAUSES: tuple[tuple[type[StreamingError], str], ...] = (
    (MissingExtra, "an optional package is not installed here"),
    (AccessDenied, "the login was refused: wrong, expired or missing credentials, or no permission for this place"),
    (
        ObjectNotFoundError,
        "the login works or is not needed, but nothing was found: check bucket, folder, revision and spelling",
    ),
    (SourceTimeout, "the server does not answer in time: a firewall that drops packets, a proxy, or overload"),
    (SourceUnavailable, "no server answers: wrong host or port, no network, or the server is down"),
    (BadRequest, "the server does not accept such requests: often the wrong region or endpoint"),
)


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check, with the likely cause of a failure."""

    check: str
    outcome: str
    detail: str
    cause: str = ""


def examine(urls: Sequence[str], are_mirrors: bool, as_json: bool) -> None:
    """Check each source and print the results; compare their listings if they should be replicas.

    Raises:
        typer.Exit: FAILED, if a check failed.
    """
    has_failed = asyncio.run(_examine_all([parse_source(url) for url in urls], are_mirrors, as_json))
    if has_failed:
        raise typer.Exit(FAILED)


async def _examine_all(configs: Sequence[DataSourceConfig], are_mirrors: bool, as_json: bool) -> bool:
    """Return whether a check failed."""
    listings: list[dict[str, int]] = []
    outcomes: set[str] = set()
    for config in configs:
        listed: dict[str, int] = {}
        listings.append(listed)
        async for result in _look_at(config, listed):
            outcomes.add(result.outcome)
            _show(config.shown_uri, result, as_json)
    if are_mirrors:
        for config, listed in zip(configs[1:], listings[1:], strict=True):
            result = _compare(configs[0].shown_uri, listings[0], listed)
            outcomes.add(result.outcome)
            _show(config.shown_uri, result, as_json)
    return FAILED_ in outcomes


def _show(uri: str, result: CheckResult, as_json: bool) -> None:
    if as_json:
        print_json({"source": uri, **asdict(result)})
        return
    print_line(f"{result.outcome:<9} {result.check:<12} {result.detail}")
    if result.cause:
        print_line(f"{'':<9} {'':<12} likely cause: {result.cause}")


async def _look_at(config: DataSourceConfig, listed: dict[str, int]) -> AsyncIterator[CheckResult]:
    """Yield the checks of one source, each after those that it depends on; fills in `listed`."""
    yield CheckResult("source", OK, f"{config.source_type} at {config.shown_uri}")
    endpoint = _endpoint(config)
    if endpoint:
        yield CheckResult("credentials", OK, _credentials(config))
        yield await _tried("endpoint", _connect, endpoint)
        yield await _tried("clock", _compare_clocks, endpoint)
    try:
        source = create_data_source(config)
    except StreamingError as exc:
        yield _failed("client", exc)
        return
    async with source:
        yield await _tried("list", _list, source, listed)
        if listed or source.skipped:
            yield await _look_for_samples(source, listed)
        if listed:
            yield await _tried("read", _read_some, source, listed)
        else:
            yield CheckResult("read", LEFT_OUT, "no object was listed")


async def _tried(check: str, look: Callable[..., Awaitable[str]], *args: object) -> CheckResult:
    try:
        return CheckResult(check, OK, await look(*args))
    except _Unsure as exc:
        return CheckResult(check, LEFT_OUT, str(exc))
    except StreamingError as exc:
        return _failed(check, exc)


class _Unsure(Exception):
    """The check was not possible, which is no failure of the source."""


def _failed(check: str, error: StreamingError) -> CheckResult:
    cause = next((text for kind, text in _CAUSES if isinstance(error, kind)), "")
    return CheckResult(check, FAILED_, " ".join(str(error).split()), cause)


def _credentials(config: DataSourceConfig, environment: Mapping[str, str] = os.environ) -> str:
    """Return the names of the credentials that would be used, never their values."""
    kind = config.source_type
    found = [f"{name} (settings)" for name in config.credentials or ()]
    found += [f"{name} (environment)" for name in _VARIABLES.get(kind, ()) if environment.get(name)]
    login = _LOGIN_FILES.get(kind)
    if login and Path(login).expanduser().is_file():
        found.append(f"{login} (file)")
    return ", ".join(found) if found else "none found: reads are anonymous, or by the role of this machine"


def _endpoint(config: DataSourceConfig, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the URL of the server that would be read, or None for a local source."""
    kind = config.source_type
    if kind == "http":
        return config.path_or_uri
    if kind not in _ENDPOINTS:
        return None
    names, default = _ENDPOINTS[kind]
    given = config.storage_options.get("endpoint_url") or config.storage_options.get("endpoint")
    found = given or next((environment[name] for name in names if environment.get(name)), default)
    return str(found) if "://" in str(found) else f"http://{found}"


async def _connect(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    started = time.perf_counter()
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError as exc:
        raise SourceTimeout(f"{host}:{port} did not accept a connection within {CONNECT_S:g} s") from exc
    except OSError as exc:
        raise SourceUnavailable(f"{host}:{port} cannot be reached: {exc}") from exc
    writer.close()
    return f"{host}:{port} accepts connections, in {(time.perf_counter() - started) * 1e3:.1f} ms"


async def _compare_clocks(endpoint: str) -> str:
    """Compare the clocks; the server sends its time in whole seconds."""
    import aiohttp

    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CONNECT_S)) as session,
            session.head(endpoint, allow_redirects=False) as answer,
        ):
            date = answer.headers.get("Date")
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise _Unsure(f"the time of the server could not be read: {type(exc).__name__}") from exc
    if date is None:
        raise _Unsure("the server does not send its time")
    skew = time.time() - parsedate_to_datetime(date).timestamp() - 0.5
    if abs(skew) > MOST_SKEW_S:
        raise AccessDenied(f"the clocks differ by {skew:.0f} s; signed requests are refused then: set this clock")
    return f"differs from the server's by {max(abs(skew) - 0.5, 0):.0f} s"


async def _list(source: DataSource, listed: dict[str, int]) -> str:
    started = time.perf_counter()
    first: float | None = None
    async for info in source.iter_files():
        first = time.perf_counter() - started if first is None else first
        _note(info, listed)
        if len(listed) >= MOST_LISTED:
            break
    seconds = time.perf_counter() - started
    more = " or more" if len(listed) >= MOST_LISTED else ""
    return f"{len(listed)}{more} objects in {seconds:.2f} s, the first after {first or seconds:.3f} s"


def _note(info: FileInfo, listed: dict[str, int]) -> None:
    listed[info.path] = info.size


async def _look_for_samples(source: DataSource, listed: Mapping[str, int]) -> CheckResult:
    """Count the objects that can be samples by their names, and say why the others cannot."""
    listing = Listing()
    await fill(listing, _each(listed), source.config.selection)
    listing.skips.update(source.skipped)
    try:
        check_readable([source], [listing])
    except NoSamples as exc:
        return _failed("samples", exc)
    skips, unlikely = left_out(listing), unlikely_samples(listing)
    parts = [f"{len(listing)} of {len(listing) + skips.total()} objects can be samples", skips.describe()]
    parts += [f"may not be meant as samples: {unlikely.describe()}"] if unlikely else []
    if len(listed) >= MOST_LISTED:
        parts.append(
            "the listing was left early, so that objects which cannot be read are only counted by streaming index"
        )
    is_odd = unlikely or skips.total(without=BY_SETTINGS)
    return CheckResult("samples", WARNING if is_odd else OK, "; ".join(filter(None, parts)))


async def _each(listed: Mapping[str, int]) -> AsyncIterator[FileInfo]:
    for path, size in listed.items():
        yield FileInfo(path, size)


async def _read_some(source: DataSource, listed: Mapping[str, int]) -> str:
    """Measure the latency by small reads one after the other, and the throughput by concurrent whole reads."""
    paths = list(islice(cycle(listed), READS))
    latencies = []
    for path in paths:
        started = time.perf_counter()
        await source.read(path, 0, 1)
        latencies.append(time.perf_counter() - started)
    waiting, nbytes = iter(paths), 0

    async def read_next() -> None:
        nonlocal nbytes
        for path in waiting:
            nbytes += len((await source.read(path, 0, READ_BYTES)).data)

    started = time.perf_counter()
    await asyncio.gather(*(read_next() for _ in range(AT_ONCE)))
    speed = nbytes / (time.perf_counter() - started)
    cuts = quantiles(latencies, n=20)
    return (
        f"latency p50 {cuts[9] * 1e3:.1f} ms, p95 {cuts[18] * 1e3:.1f} ms; "
        f"{human_bytes(speed)}/s with {AT_ONCE} concurrent reads"
    )


def _compare(first: str, expected: Mapping[str, int], found: Mapping[str, int]) -> CheckResult:
    """Check whether a replica lists the same names and sizes; of long listings only the names found in both."""
    both = expected.keys() & found.keys()
    differing = sorted(
        path for path in both if -1 not in (expected[path], found[path]) and expected[path] != found[path]
    )
    lacking: list[str] = []
    extra: list[str] = []
    if max(len(expected), len(found)) < MOST_LISTED:
        lacking, extra = sorted(expected.keys() - both), sorted(found.keys() - both)
    differences = [
        f"{len(paths)} {what} (first {paths[0]!r})"
        for paths, what in ((lacking, "missing"), (extra, "not in the other"), (differing, "of another size"))
        if paths
    ]
    if differences:
        return CheckResult(
            "mirror",
            FAILED_,
            f"compared with {first}: {', '.join(differences)}",
            "the replica is stale, or of other data",
        )
    return CheckResult("mirror", OK, f"{len(both)} names have the same sizes as in {first}")
