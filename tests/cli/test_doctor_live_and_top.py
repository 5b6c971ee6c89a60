"""`streaming doctor --live` and `streaming top` read a run's metrics, by URL or PID, and say what to change."""

from __future__ import annotations

import http.server
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from streaming.cli.app import app
from streaming.cli.scraping import Scraper, find_urls, scrape
from streaming.errors import BadRequest, ConfigError, DecodeError, ObjectNotFoundError, SourceTimeout, SourceUnavailable
from tests.calm import calmly

REPOSITORY = Path(__file__).parents[2]


def exposition(steps: int, waited: float = 0.0, stage: str = "decode", rank: int = 0) -> str:
    """A run that has made so many steps of 0.1 s, of which it waited so much for a stage."""
    labels = f'dataset="data",rank="{rank}"'
    return (
        "# TYPE streaming_trainer_steps_total counter\n"
        f"streaming_trainer_steps_total{{{labels}}} {steps}\n"
        "# TYPE streaming_trainer_busy_seconds_total counter\n"
        f"streaming_trainer_busy_seconds_total{{{labels}}} {steps * 0.1 - waited}\n"
        "# TYPE streaming_trainer_wait_seconds_total counter\n"
        f'streaming_trainer_wait_seconds_total{{{labels},stage="{stage}"}} {waited}\n'
    )


@contextmanager
def served(*answers: str | int) -> Iterator[str]:
    """The address of a server that gives these texts or errors in turn, and then the last again and again."""
    left = list(answers)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(answer, int):
                self.send_error(answer)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def live(*arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON of `doctor --live`, looking for a moment."""
    result = run("doctor", "--live", "--json", "--seconds", "0.01", *arguments)
    assert result.stderr == ""
    return result.exit_code, json.loads(result.stdout)


# -- the verdict


@pytest.mark.parametrize("form", ["{}", "http://{}", "http://{}/", "http://{}/metrics"])
def test_a_run_that_waits_fails(form: str) -> None:
    """What must change is told with exit code 1; host and port are enough of a URL."""
    with served(exposition(100, 1.0), exposition(200, 5.0)) as address:
        code, told = live(form.format(address))
    assert code == 1
    assert told["code"] == "TrainerWaiting/decode"
    assert told["verdict"].startswith("decode, 40 % of step")
    assert told["urls"] == [f"http://{address}/metrics"]


def test_a_run_whose_data_are_ready_is_fine() -> None:
    """Exit code 0, and the first word says that the trainer is what bounds."""
    with served(exposition(100), exposition(200)) as address:
        code, told = live(address)
        assert (code, told["is_fine"]) == (0, True)
        result = run("doctor", "--live", "--seconds", "0", address)
    assert result.exit_code == 0
    assert result.stdout.startswith("info TrainerBound  trainer-bound: the data is ready")


def test_for_people() -> None:
    """The sentence comes first, on one line however long, then a row for each rank."""
    with (
        served(exposition(0), exposition(100, 4.0)) as first,
        served(exposition(0, rank=1), exposition(100, 4.1, "collate", rank=1)) as second,
    ):
        result = run("doctor", "--live", "--seconds", "0.01", first, second)
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert lines[0].startswith(
        "warning TrainerWaiting/collate  rank 1: collate, 41 % of step: it runs before each batch"
    )
    assert "████░░░░░░ decode 40 %" in result.stdout
    assert [line.split()[0] for line in lines[-3:]] == ["rank", "0", "1"]


def test_runs_with_the_same_rank_are_told_apart() -> None:
    """Two single processes are both rank 0: their addresses tell which is meant."""
    with served(exposition(0), exposition(9)) as first, served(exposition(0), exposition(10, 0.5)) as second:
        code, told = live(first, second)
    assert code == 1
    assert [row["rank"] for row in told["ranks"]] == sorted([f"0@{first}", f"0@{second}"])


def test_a_run_that_ends_between_the_scrapes() -> None:
    """That is the finding; the figures are what it had done until then."""
    with served(exposition(100, 5.0), 503) as address:
        code, told = live(address)
    assert code == 1
    assert told["code"] == "ScrapeGone"
    assert told["ranks"][0]["stages"]["decode"] == pytest.approx(0.5)


# -- what cannot be read


def test_nobody_listens() -> None:
    """A port that is closed: the run, or the call in it."""
    result = run("doctor", "--live", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "http://127.0.0.1:1/metrics cannot be reached" in result.stderr
    assert "streaming.start_metrics_server()" in result.stderr
    with pytest.raises(SourceUnavailable):
        scrape("http://127.0.0.1:1/metrics")


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ("<html>hello</html>\n", DecodeError, "not a Prometheus text exposition"),
        ("# TYPE up gauge\nup 1\n", ObjectNotFoundError, "no metrics of this library"),
        (404, ObjectNotFoundError, "mostly are at /metrics"),
        (500, SourceUnavailable, "answered 500"),
    ],
)
def test_an_answer_without_metrics(answer: str | int, error: type[Exception], words: str) -> None:
    """What came instead is named, with the URL and the next step."""
    with served(answer) as address, pytest.raises(error, match=f"{address}.*{words}"):
        scrape(f"http://{address}/metrics")


@pytest.mark.parametrize(
    ("says", "timeout_s", "error"), [(b"SSH-2.0-x\r\n", 60, BadRequest), (b"", 0.2, SourceTimeout)]
)
def test_what_does_not_speak_http(says: bytes, timeout_s: float, error: type[Exception]) -> None:
    """Another server's greeting, or silence."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(says)
                while client.recv(1 << 16):
                    pass

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(error, match=str(server.getsockname()[1])):
            scrape(f"http://127.0.0.1:{server.getsockname()[1]}/metrics", timeout_s=timeout_s)
        thread.join()


@pytest.mark.parametrize(
    "target", ["s3://bucket/x", "nonsense", "http://", "host:port", "http://host:99999", "-1", "http://a b:1"]
)
def test_what_is_no_target(target: str) -> None:
    """Neither a PID nor a URL of a metrics server: bad usage."""
    with pytest.raises(ConfigError, match="neither a PID nor the URL"):
        find_urls(target)


def test_a_login_in_the_url_is_refused_and_not_shown() -> None:
    """Metrics servers have none; the secret is not told."""
    result = run("doctor", "--live", "http://me:secret@127.0.0.1:1/metrics")
    assert result.exit_code == 2
    assert "use a URL without login" in result.stderr
    assert "secret" not in result.stderr


def test_mirrors_are_for_sources() -> None:
    """The two kinds of looking do not mix."""
    assert run("doctor", "--live", "--mirrors", "127.0.0.1:1").exit_code == 2


# -- processes

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(sys.argv[1].encode())
    def log_message(self, *args): pass
class Server(http.server.ThreadingHTTPServer):
    address_family = __import__("socket").AF_INET6 if ":" in sys.argv[2] else 2
server = Server((sys.argv[2], 0), Handler)
if sys.argv[3:] != ["fork"] or __import__("os").fork():
    sys.stdout.write(f"{server.server_port}\\n")  # in one piece: two of them may share the pipe
    sys.stdout.flush()
server.serve_forever()
"""


@contextmanager
def started(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that prints to a pipe; it and what it started are ended."""
    settings = {"stdout": subprocess.PIPE, "text": True, **options}
    with subprocess.Popen(command, start_new_session=True, **settings) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(
    ("address", "host"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "[::1]")]
)
def test_a_process_is_found_by_its_sockets(address: str, host: str) -> None:
    """By PID alone, whatever address it listens at."""
    with started(sys.executable, "-c", SERVER, exposition(1), address) as process:
        port = line_of(process)
        assert find_urls(str(process.pid)) == [f"http://{host}:{port}/metrics"]


def test_processes_below_count_too() -> None:
    """What started the ranks is enough: each that serves is found, once."""
    script = f'"{sys.executable}" -c "$0" "$1" 127.0.0.1 & "{sys.executable}" -c "$0" "$2" 127.0.0.1 & wait'
    ranks = exposition(1, rank=0), exposition(1, rank=1)
    with started("sh", "-c", script, SERVER, *ranks) as process:
        ports = {line_of(process), line_of(process)}
        scraper = Scraper([str(process.pid)])
        assert set(scraper.urls) == {f"http://127.0.0.1:{port}/metrics" for port in ports}
        assert sorted(scraper.first().ranks) == ["0", "1"]


def test_a_socket_that_a_worker_inherited_is_its_parents() -> None:
    """Forked workers hold the same socket: the run is found once."""
    with started(sys.executable, "-c", SERVER, exposition(1), "127.0.0.1", "fork") as process:
        port = line_of(process)
        assert find_urls(str(process.pid)) == [f"http://127.0.0.1:{port}/metrics"]


def test_a_process_that_serves_nothing() -> None:
    """The error says what to call in it."""
    with started(sys.executable, "-c", SERVER, "hello", "127.0.0.1") as process:
        line_of(process)
        result = run("doctor", "--live", str(process.pid))
    assert result.exit_code == 1
    assert f"process {process.pid} and its descendants serve no metrics: call" in result.stderr
    assert "streaming.start_metrics_server()" in result.stderr


def test_no_such_process() -> None:
    """A PID that nobody has."""
    with pytest.raises(ObjectNotFoundError, match=r"there is no process 4194305 .* or a URL"):
        find_urls("4194305")  # one more than the kernel gives


def test_somebody_elses_process() -> None:
    """Sockets of a process are for its user to see; the error says what else to give."""
    script = (
        "import os, sys; from streaming.cli.scraping import find_urls\n"
        "os.getuid() or os.setuid(65534)\n"
        "try: find_urls('1')\n"
        "except PermissionError as exc: print(exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "process 1 belongs to another user" in done.stdout
    assert "give its URL" in done.stdout


# -- top


def test_top_once() -> None:
    """One frame: the table, and below it the verdict; with JSON one object."""
    with served(exposition(100), exposition(200, 3.0)) as address:
        result = run("top", "--once", "--seconds", "0.01", address)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["rank", "data", "set"]
    assert "TrainerWaiting/decode  decode, 30 % of step" in result.stdout
    with served(exposition(100), exposition(200, 3.0)) as address:
        told = json.loads(run("top", "--once", "--json", "--seconds", "0.01", address).stdout)
    assert told["code"] == "TrainerWaiting/decode"


def test_top_without_a_run() -> None:
    """An error is one line, and nothing of a screen."""
    result = run("top", "127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "cannot be reached" in result.stderr


TOP = (sys.executable, "-m", "streaming.cli", "top")


@pytest.fixture
def steps() -> Iterator[str]:
    """The address of a run that waits half of each of its steps, and has made one more at each look."""
    with served(*(exposition(number, number * 0.05) for number in range(1, 1000))) as address:
        yield address


def test_top_into_a_pipe(steps: str) -> None:
    """Frames follow each other, the figures are of the last seconds, and Ctrl-C is quiet."""
    with started(*TOP, "--json", steps, cwd=REPOSITORY, stderr=subprocess.PIPE) as process:
        frames = [json.loads(line_of(process)) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert [frame["code"] for frame in frames] == ["TrainerWaiting/decode"] * 3
    assert [frame["ranks"][0]["steps"] for frame in frames] == [1, 1, 2]
    assert (process.returncode, errors.strip()) == (130, "")


def test_top_in_the_background(steps: str) -> None:
    """Started with SIGINT ignored, as a script starts a background job, it ignores Ctrl-C; SIGTERM is quiet."""
    command = ("sh", "-c", 'trap \'\' INT; exec "$0" "$@"', *TOP, "--json", steps)
    with started(*command, cwd=REPOSITORY, stderr=subprocess.PIPE) as process:
        assert json.loads(line_of(process))
        process.send_signal(signal.SIGINT)
        assert all(json.loads(line_of(process)) for _ in range(2))
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "")


def test_top_on_a_terminal_leaves_it_as_it_was() -> None:
    """It draws on the terminal's other screen; Ctrl-C brings back the first, and the cursor."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", "LINES": "40"}
    terminal = {"stdin": follower, "stdout": follower, "stderr": follower}
    with served(exposition(100, 4.0)) as address, started(*TOP, address, env=environment, **terminal) as process:
        os.close(follower)
        drawn = read_until(leader, b"decode, 40 %")
        process.send_signal(signal.SIGINT)
        drawn += read_until(leader, None)
        process.wait(60)
    os.close(leader)
    assert process.returncode == 130
    assert drawn.count(b"\x1b[?1049h") == drawn.count(b"\x1b[?1049l") == 1
    assert drawn.rindex(b"\x1b[?25h") > drawn.rindex(b"\x1b[?25l")
    assert b"Traceback" not in drawn


def read_until(terminal: int, part: bytes | None) -> bytes:
    """What comes until it holds this part, or until the end."""
    held = b""
    while part is None or part not in held:
        assert select.select([terminal], [], [], 60)[0], held
        try:
            more = os.read(terminal, 1 << 16)
        except OSError:  # as a terminal's end is told on Linux
            more = b""
        if not more:
            assert part is None, held
            break
        held += more
    return held


# -- a real run

TRAINER = """
import sys, time
import torch
from streaming.adapter import StreamingDatasetAdapter
from streaming.loader.data_loader import StreamingDataLoader
from streaming import start_metrics_server
from streaming.testing import LatencySource, MemorySource

if __name__ == "__main__":
    latency_s, collate_s = map(float, sys.argv[1:])
    objects = {f"{number:04}.bin": bytes(100) for number in range(4000)}
    source = LatencySource(MemorySource("primary", objects), latency_s)

    def collate(samples):
        time.sleep(collate_s)
        return samples

    with StreamingDatasetAdapter(source, prefetch_ahead=2, cache_size_gb=0.02) as adapter:
        loader = StreamingDataLoader(adapter, batch_size=4, collate_fn=collate)
        server = start_metrics_server(port=0)
        batches = 0
        for epoch in range(1000):
            for batch in loader:
                time.sleep(0.002)
                batches += 1
                if batches == 20:
                    print("training", flush=True)
"""


@pytest.mark.parametrize(
    ("latency_s", "collate_s", "code", "words"),
    [
        (0.05, 0.0, "TrainerWaiting/source", "depth-bound at 2"),
        (0.0, 0.02, "TrainerWaiting/collate", "num_workers"),
    ],
)
def test_a_real_run_is_judged_by_its_pid(
    latency_s: float, collate_s: float, code: str, words: str, tmp_path: Path
) -> None:
    """A slow source and a slow collate function are named, with what to change, from the PID alone."""
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(script), str(latency_s), str(collate_s)]
    with started(*command, env=environment) as process:
        assert line_of(process) == "training"
        result = calmly(lambda: run("doctor", "--live", "--json", "--seconds", "1", str(process.pid)))
    assert result.stderr == ""
    told = json.loads(result.stdout)
    assert (told["code"], result.exit_code) == (code, 1), told["verdict"]
    assert words in told["verdict"]
    assert told["ranks"][0]["stages"][code.partition("/")[2]] > 0.5
