"""No secret of a configuration appears in any text: one is planted in every place for secrets."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import pickle
import traceback
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import yaml
from typer.testing import CliRunner

from streaming.adapter import StreamingDatasetAdapter
from streaming.cli.app import app
from streaming.core import logs
from streaming.core.adapter_config import AdapterConfig, load_config
from streaming.core.masking import mask_secrets
from streaming.core.source_config import DataSourceConfig, parse_source
from streaming.errors import ConfigError, ObjectNotFoundError, PrepareError, StreamingError
from streaming.loader.data_loader import StreamingDataLoader
from streaming.monitoring.metrics import write_textfile
from streaming.monitoring.wandb_logger import WandbLogger
from streaming.sources import create_data_source
from tests.cli.test_doctor_live_and_top import exposition
from tests.monitoring.test_wandb_logger import Run

PLACES = (
    "login query odd_query header token user password url_query index_query mirror_login mirror_header s3_login s3_key "
    "s3_secret s3_session s3_option s3_nested gcs_login gcs_token gcs_key hub_token hub_option answer listed"
).split()
PLANTED = {place: f"pl4nted-{place.replace('_', '-')}-Kx8Vq2" for place in PLACES}
P = PLANTED
FAST = {"deadline_s": 1.0, "backoff_base_s": 0.001, "backoff_max_s": 0.002}


def forms(secret: str) -> set[str]:
    """A secret as it is, and as URLs and logins hold it."""
    return {secret, quote(secret, safe=""), b64encode(f"me:{secret}".encode()).decode().rstrip("=")}


def check(found: dict[str, str]) -> None:
    """Assert that no text has a secret, and report where it appeared, and which."""
    leaks = [
        f"{where}: {place}"
        for where, text in found.items()
        for place, secret in PLANTED.items()
        if any(form in text for form in forms(secret))
    ]
    assert leaks == []


# -- a server that repeats everything it receives


class Echo(BaseHTTPRequestHandler):
    """Refuses requests and repeats their headers; below some folders it fails in other ways."""

    def do_GET(self) -> None:
        folder = urlsplit(self.path).path.split("/")[1]
        getattr(self, f"_{folder.replace('.', '_')}", self._refuse)()

    do_HEAD = do_GET

    def _refuse(self) -> None:
        said = f"<Error><Code>Odd</Code>{self.path} {dict(self.headers)} token={P['answer']}</Error>"
        self._send(500 if "500" in self.path else 403, said, {"X-Seen": P["answer"]})

    def _redirect(self) -> None:
        self._send(302, "", {"Location": f"ftp://elsewhere/x?X-Amz-Signature={P['answer']}"})

    def _loop(self) -> None:
        self._send(302, "", {"Location": f"/loop/a.json?X-Amz-Signature={P['answer']}"})

    def _page(self) -> None:
        self._send(200, "no listing", {})

    def _index(self) -> None:
        self._send(200, f"http://elsewhere/a.json?sig={P['listed']}\n", {})

    def _good(self) -> None:
        """Only for who logs in as it was configured."""
        login = b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
        if login != f"me:{P['login']}" or self.headers.get("X-Shipment") != P["header"]:
            self._refuse()
        elif self.path.split("?")[0].endswith("/"):
            links = "".join(f'<a href="{number}.json">{number}</a>' for number in range(4))
            self._send(200, f"<html><title>Index of /</title>{links}</html>", {"Content-Type": "text/html"})
        else:
            self._send(200, "{", {}) if "/3.json" in self.path else self._send(200, '{"a": 1}', {})

    def _metrics(self) -> None:
        self._send(200, exposition(100, 5.0), {})

    def _send(self, status: int, body: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of such a server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as http:
        http.daemon_threads = True
        thread = Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def web(server: str, folder: str, **options: Any) -> dict[str, Any]:
    """A web server with a secret in its URL's login and query and in a header of an unusual name."""
    url = f"http://me:{P['login']}@{server}/{folder}/?X-Amz-Signature={P['query']}&odd={P['odd_query']}"
    return {"type": "http", "path": url, "storage_options": {"headers": {"X-Shipment": P["header"]}, **options}}


def sources_of(server: str) -> dict[str, dict[str, Any]]:
    """Sources that fail, each with other secrets in other places."""
    mirror = {**web(server, "403"), "path": f"http://me:{P['mirror_login']}@{server}/500/"}
    mirror["storage_options"] = {"headers": {"X-Mirror": P["mirror_header"]}}
    found = {f"web-{folder}": web(server, folder) for folder in ("403", "500", "redirect", "loop", "page")}
    found["web-urls"] = web(server, "500", urls=[f"http://{server}/redirect/a.json?sig={P['url_query']}"])
    found["web-index"] = web(server, "500", index=f"http://{server}/index/?odd={P['index_query']}")
    found["web-mirrors"] = {**web(server, "403"), "mirrors": [mirror]}
    plain = {**web(server, "403"), "path": f"http://{server}/403/"}
    for engine in ("obstore", "aiohttp"):
        found[f"web-token-{engine}"] = {**plain, "engine": engine, "credentials": {"token": P["token"]}}
    found["web-password"] = {**plain, "credentials": {"username": P["user"], "password": P["password"]}}
    login = {"endpoint_url": f"http://me:{P['s3_login']}@{server}/"}
    keys = {"aws_access_key_id": P["s3_key"], "aws_secret_access_key": P["s3_secret"], "token": P["s3_session"]}
    s3 = {"type": "s3", "path": "s3://bucket/403"}
    for engine in ("obstore", "aioboto3"):
        found[f"s3-{engine}"] = {**s3, "engine": engine, "credentials": keys, "storage_options": login}
    nested = {**login, "aws_secret_access_key": P["s3_nested"], "aws_access_key_id": P["s3_option"]}
    found["s3-nested"] = {**s3, "storage_options": {"client_kwargs": nested}}
    gcs = {"type": "gcs", "path": "gs://bucket/403"}
    login = {"endpoint_url": f"http://me:{P['gcs_login']}@{server}"}
    for engine in ("obstore", "gcsfs"):
        found[f"gcs-{engine}"] = {
            **gcs,
            "engine": engine,
            "credentials": {"token": P["gcs_token"]},
            "storage_options": {"endpoint_url": f"http://{server}"},
        }
    found["gcs-login"] = {**gcs, "storage_options": {**login, "anon": True}}
    found["gcs-two"] = {**gcs, "credentials": {"token": P["gcs_token"]}, "storage_options": login}
    account = {"type": "service_account", "client_email": "a@b", "private_key": f"-----BEGIN KEY-----\n{P['gcs_key']}"}
    found["gcs-account"] = {**gcs, "credentials": {"service_account_json": json.dumps(account)}}
    found["gcs-dict"] = {**gcs, "storage_options": {"token": account}}
    hub = {"type": "huggingface", "path": "org/data"}
    found["hub"] = {
        **hub,
        "credentials": {"token": P["hub_token"]},
        "storage_options": {"endpoint": f"http://{server}"},
    }
    found["hub-option"] = {**hub, "storage_options": {"endpoint": f"http://{server}/500", "token": P["hub_option"]}}
    return {name: {**settings, "name": name, "timeout_s": 5} for name, settings in found.items()}


KINDS = list(sources_of("127.0.0.1:9"))


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that the library logs, with tracebacks, as a program's own handler writes it."""
    stream, logger = io.StringIO(), logging.getLogger("streaming")
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield stream
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)


def texts_of(error: BaseException) -> dict[str, str]:
    """Return every text that an error can be printed as, including its whole chain."""
    logs.get_logger("streaming.tests.everywhere").error("it_failed error=%s", error, exc_info=error)
    return {
        "str": str(error),
        "repr": repr(error),
        "attributes": repr(vars(error)),
        "chain": "".join(traceback.format_exception(error)),
        "pickle": "".join(traceback.format_exception(pickle.loads(pickle.dumps(error)))),
    }


def within(where: str, texts: dict[str, str]) -> dict[str, str]:
    """The same texts under longer names."""
    return {f"{where} {name}": text for name, text in texts.items()}


# -- configurations


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_shows_no_secret(kind: str) -> None:
    """Neither printed nor dumped, alone or in the adapter's; a pickle and a copy still have it, for they are used."""
    config = parse_source(sources_of("127.0.0.1:9")[kind])
    adapter = AdapterConfig(sources=[config])
    found: dict[str, str] = {}
    for name, each in (("source", config), ("adapter", adapter)):
        shown = [repr(each), str(each), f"{each}", repr([each]), repr(each.model_dump()), str(dict(each.model_dump()))]
        shown += [each.model_dump_json(), repr(each.model_dump(mode="json")), "".join(map(str, each.__rich_repr__()))]  # type: ignore[misc]
        found[name] = "\n".join(shown)
    check(found)
    copies = [pickle.loads(pickle.dumps(config)), config.model_copy(), adapter.replace(seed=1).sources[0]]
    assert [copy == config for copy in copies] == [True] * 3
    assert copies[0].path_or_uri == sources_of("127.0.0.1:9")[kind]["path"]


def create_all(path: Path) -> list[Any]:
    """The sources that a file configures."""
    return [create_data_source(source) for source in load_config(path).sources]


@pytest.mark.parametrize(
    "text",
    [
        "sources:\n  - path: http://h/\n  credentials: {{token: {0}}}\n",
        "token: {0}: {0}\n",
        "token: '{0}\n",
        "token: [{0}\n",
        "token: *{0}\n",
        "token: !{0} x\n",
        "token: %{0}\n",
        "token: @{0}\n",
        "? [{0}]\n: - x\n -{0}",
        "{{{{{0}: 1}}: 2}}",
        "sources: 2001-99-99 # {0}\n",
        "{0}: &a\n  - *b\n",
        "sources: [{{path: /x, credentials: {0}}}]\n",
        "sources: [{{path: 'http://me:{0}@h/', type: local}}]\n",
        "sources: [{{path: 'me:{0}@h/x', type: http}}]\n",
        "sources: [{{path: 'http://me:x/{0}@h/', type: http, timeout_s: soon}}]\n",
        "sources: [{{path: s3://b, storage_options: {{endpoint_url: 'me:{0}@host:9000'}}}}]\n",
    ],
)
@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_file_that_cannot_be_used_is_not_quoted(tmp_path: Path, text: str, suffix: str) -> None:
    """An error gives line and column, without the text there."""
    path = tmp_path / f"train{suffix}"
    path.write_text(text.format(P["token"]))
    with pytest.raises(ConfigError) as caught:
        create_all(path)
    check(within("error", texts_of(caught.value)))
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, ConfigError)
    if suffix == ".yaml":
        check({"warm": CliRunner().invoke(app, ["warm", str(path)]).output})


# -- sources that fail


@pytest.mark.parametrize("kind", KINDS)
async def test_no_secret_comes_out_of_a_source_that_fails(server: str, kind: str, log: io.StringIO) -> None:
    """Not in errors of reading and listing with the whole chain, nor in what a source is made of."""
    config = parse_source(sources_of(server)[kind])
    found: dict[str, str] = {}
    try:
        source = create_data_source(config)
        async with source:
            for call in (lambda: source.read("a.json"), source.list_files):
                try:
                    await call()
                except StreamingError as error:
                    found |= within(f"error {len(found)}", texts_of(error))
            found["source"] = f"{source!r} {source.config!r} {vars(source).get('_address')!r}"
    except StreamingError as error:
        found |= within("construct", texts_of(error))
    found["log"] = log.getvalue()
    assert "it_failed" in found["log"]
    check(found)


# -- an adapter that reads, and replaces what it cannot decode


def prepare(sample: Any) -> Any:
    """Fail on one sample, as one does that reads from elsewhere."""
    if sample.get("a") != 1:
        raise ValueError(f"cannot open https://h/?X-Amz-Signature={P['query']} with token={P['token']}")
    return sample


def fail_to_prepare(sample: Any) -> Any:
    """Fail on each sample."""
    return prepare({})


@pytest.mark.parametrize("owner", ["thread", "process"])
def test_no_secret_comes_out_of_a_run(server: str, owner: str, tmp_path: Path, log: io.StringIO) -> None:
    """Not in the saved index, the quarantine file, metrics, statistics, states, what is sent to wandb, or the log. The
    server is read with the true login, also from another process."""
    run = Run()
    settings: dict[str, Any] = {
        "resilience": FAST,
        "owner": owner,
        "index_path": tmp_path / "index",
        "cache_size_gb": 0.1,
    }
    bad: dict[str, Any] = {"on_error": "replace", "max_bad_share": 1.0, "quarantine_path": tmp_path / "bad.jsonl"}
    with StreamingDatasetAdapter([web(server, "good")], **settings, **bad) as adapter:
        loader = StreamingDataLoader(adapter, batch_size=2)
        tracker = WandbLogger(loader, run, every=1, clock=iter(range(1000)).__next__)
        batches = list(tracker)
        tracker.close()
        write_textfile(tmp_path / "metrics.prom")
        found = {
            "state": json.dumps(loader.state_dict()),
            "objects": f"{adapter!r} {loader!r} {tracker!r} {adapter.index!r} {vars(adapter.index)!r}",
            "stats": f"{adapter.get_cache_stats()} {adapter.metrics_snapshot()}",
            "batches": repr(batches),
        }
    assert len(batches) == 2
    assert (tmp_path / "bad.jsonl").read_text().count("\n") == 1
    files = {path.name: path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()}
    check({**found, **files, "wandb": repr(run.logged + run.axes), "log": log.getvalue()})


@pytest.mark.parametrize("owner", ["thread", "process"])
def test_a_quarantine_reason_holds_no_secret(server: str, owner: str, tmp_path: Path, log: io.StringIO) -> None:
    """Also where a user's own function put one into its error."""
    settings: dict[str, Any] = {"owner": owner, "cache_size_gb": 0.1, "on_error": "replace", "max_bad_share": 1.0}
    settings["quarantine_path"] = tmp_path / "bad.jsonl"
    with StreamingDatasetAdapter([web(server, "good")], prepare=fail_to_prepare, **settings) as adapter:
        with pytest.raises((PrepareError, StreamingError)) as caught:
            adapter[0]
    found = within("error", texts_of(caught.value))
    check({**found, "quarantine": (tmp_path / "bad.jsonl").read_text(), "log": log.getvalue()})
    assert "cannot open https://h/?X-Amz-Signature=***" in (tmp_path / "bad.jsonl").read_text()


# -- commands


def commands(server: str, config: Path, output: Path) -> dict[str, list[str]]:
    """Everything that the command line prints about such sources."""
    good, bad = (str(web(server, folder)["path"]) for folder in ("good", "403"))
    metrics = f"http://{server}/metrics?token={P['token']}&odd={P['odd_query']}"
    plain = {
        "ls": ["ls", bad],
        "get": ["get", bad.replace("/403/", "/403/a.json")],
        "index": ["index", good, bad],
        "doctor": ["doctor", good, bad],
        "mirrors": ["doctor", good, bad, "--mirrors"],
        "warm": ["warm", str(config)],
        "live": ["doctor", "--live", metrics, "--seconds", "0"],
        "gone": ["doctor", "--live", metrics.replace("/metrics", "/403/metrics"), "--seconds", "0"],
        "login": ["doctor", "--live", f"http://me:{P['login']}@{server}/metrics", "--seconds", "0"],
        "top": ["top", metrics, "--once", "--seconds", "0"],
    }
    as_json = {f"{name} --json": [*given, "--json"] for name, given in plain.items() if name != "get"}
    return {**plain, **as_json, "get -o": [*plain["get"], "-o", str(output), "--json"]}


def test_commands_print_no_secret(server: str, tmp_path: Path) -> None:
    """For people and as JSON, whether they fail or not."""
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump({"sources": [sources_of(server)["web-mirrors"]], "resilience": FAST}))
    found = {}
    for name, arguments in commands(server, config, tmp_path / "out").items():
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, SystemExit | None), (name, result.exception)
        assert result.output, name
        found[name] = result.output
    check(found)
    assert "accepts connections" in found["doctor"]
    assert json.loads(found["live --json"])["urls"] == [f"http://{server}/metrics?token=***&odd=***"]


# -- what masks


class Sly(Exception):
    """Makes its text of something else than its arguments, as aiohttp's errors do."""

    def __init__(self, url: str) -> None:
        super().__init__(404)
        self.url = url

    def __str__(self) -> str:
        return f"404 at {self.url}"


def from_file(url: str) -> Exception:
    return FileNotFoundError(2, f"no {url}", url)


@pytest.mark.parametrize("make", [ValueError, KeyError, RuntimeError, Sly, from_file, lambda url: ValueError(3, url)])
def test_what_an_error_comes_from_is_masked_with_it(make: Callable[[str], Exception]) -> None:
    """Whatever library raised it: its kind stays, its text loses the secret; also of the cause of the cause."""
    cause = make(f"https://h/x?sig={P['query']}")

    def fail() -> None:
        try:
            try:
                raise cause
            except type(cause) as exc:
                raise TypeError("between") from exc
        except TypeError as exc:
            raise ObjectNotFoundError("gone") from exc

    with pytest.raises(ObjectNotFoundError) as caught:
        fail()
    check(texts_of(caught.value))
    assert isinstance(cause, type(make("x")))
    assert "sig=***" in "".join(traceback.format_exception(caught.value))


def test_an_error_keeps_what_it_needs() -> None:
    """Paths and plain messages are as they were given; a path that is a signed URL loses the signature."""
    error = ObjectNotFoundError("the path a/b?x=1 of 'web' is gone", path="a/b?token=plain")
    assert (str(error), error.path) == ("the path a/b?x=1 of 'web' is gone", "a/b?token=plain")
    assert ObjectNotFoundError("x", path=f"http://h/a?sig={P['query']}").path == "http://h/a?sig=***"
    with contextlib.suppress(ValueError):
        raise ValueError(error)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h/x@y?page=2#z", "http://h/x@y?page=2#z"),
        ("http://h:8000/x@y", "http://h:8000/x@y"),
        ("http://[::1]:8000/x@y", "http://[::1]:8000/x@y"),
        ("http://me:a/b?c#d@h/x", "http://***@h/x"),
        ("http://h/?prefix=latents/part-0001-of-0100/x&n=1", "http://h/?prefix=latents/part-0001-of-0100/x&n=1"),
        ("http://h/?Expires=1700000000000000000000", "http://h/?Expires=1700000000000000000000"),
        ("http://h/?h=0123456789abcdef0123&n=1", "http://h/?h=***&n=1"),
    ],
)
def test_which_parts_of_a_url_are_secret(url: str, shown: str) -> None:
    """Logins, also with odd characters, and values that no person wrote; not ports, names and numbers."""
    assert mask_secrets(url) == shown


def test_header_values_are_secret_but_for_the_usual_ones() -> None:
    """Header names do not show what is secret: `X-Shipment` may be a login, and `Accept` is not."""
    headers = {"X-Shipment": P["header"], "Accept": "application/json"}
    config = DataSourceConfig("a", "http", "http://h/", storage_options={"headers": headers})
    assert config.model_dump()["storage_options"] == {"headers": {"X-Shipment": "***", "Accept": "application/json"}}
