from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml
from typer.testing import CliRunner, Result

from streaming.cli.app import app
from streaming.cli.demo.server import SlowServer

SHIPPED = Path(__file__).resolve().parents[2] / "examples" / "data"


@contextmanager
def started(command: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process with pipes, killed at the end if it is still there."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=os.environ | environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_row(process: subprocess.Popen[str], label: str) -> None:
    """Read standard output up to the row that begins with the label."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.split()[0] == label:
            return
    assert process.stderr is not None
    pytest.fail(f"ended before row {label}: {process.stderr.read()}")


def family_of(process: subprocess.Popen[str], workers: int) -> list[psutil.Process]:
    """A process and those below it, as soon as it has its workers: each epoch starts new ones."""
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        children = parent.children(recursive=True)
        if len(children) >= workers:
            return [parent, *children]
    pytest.fail(f"ended with exit status {process.returncode} before it had {workers} workers")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two folders of JSON, `a` and `b`, with the same five names in each."""
    for part in ("a", "b"):
        (tmp_path / "root" / part).mkdir(parents=True)
        for number in range(5):
            (tmp_path / "root" / part / f"s{number}.json").write_text(json.dumps({"part": part, "number": number}))
    return tmp_path / "root"


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    """The same folders over HTTP."""
    with SlowServer(folder, 0) as server:
        yield server.url


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> Path:
    """A configuration file over both folders."""
    path = tmp_path / "train.yaml"
    sources = [{"name": part, "type": "local", "path": str(folder / part)} for part in ("a", "b")]
    path.write_text(yaml.safe_dump({"sources": sources, "data_mapping": {"a": "x", "b": "y"}, "cache_size_gb": 0.05}))
    return path


def test_ls_prints_what_is_there(folder: Path, url: str) -> None:
    """`ls` gives path and size of each object, from a folder and from a web server, for people and for programs."""
    for root in (str(folder / "a"), url + "a/"):
        plain, rows = run("ls", root), run("ls", root, "--json").stdout.splitlines()
        assert plain.exit_code == 0
        assert [line.split()[-1] for line in plain.stdout.splitlines()] == [f"s{number}.json" for number in range(5)]
        assert [json.loads(row)["path"] for row in rows] == [f"s{number}.json" for number in range(5)]
    assert json.loads(run("ls", folder / "a", "--prefix", "s3", "--json").stdout)["size"] == 26


def test_get_writes_the_bytes(folder: Path, url: str, tmp_path: Path) -> None:
    """`get` writes the object as it is stored, to standard output or into a file, and says what it was."""
    content = (folder / "a" / "s1.json").read_bytes()
    for object_url in (str(folder / "a" / "s1.json"), url + "a/s1.json", url + "a/%731.json?key=value#part"):
        assert run("get", object_url).stdout_bytes == content
        output = tmp_path / "out.json"
        told = json.loads(run("get", object_url, "-o", output, "--json").stdout)
        assert output.read_bytes() == content
        assert (told["size"], told["output"]) == (len(content), str(output))
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_get_that_fails_leaves_the_file_as_it_was(url: str, tmp_path: Path) -> None:
    """When the object is not there the output is untouched, the exit code 1, and the message one line."""
    output = tmp_path / "out.json"
    output.write_text("before")
    result = run("get", url + "a/none.json", "-o", output)
    assert (result.exit_code, result.stdout, output.read_text()) == (1, "", "before")
    assert result.stderr.count("\n") == 1
    assert "none.json" in result.stderr


def test_get_replaces_the_file_at_once(folder: Path, tmp_path: Path) -> None:
    """The output becomes another file instead of being written over, so a reader of the old one keeps it whole."""
    output, old = tmp_path / "out.json", tmp_path / "old.json"
    output.write_text("before")
    os.link(output, old)
    assert run("get", folder / "a" / "s1.json", "-o", output).exit_code == 0
    assert (output.read_bytes(), old.read_text()) == ((folder / "a" / "s1.json").read_bytes(), "before")


@pytest.mark.parametrize("command", [("get", "a/s1.json"), ("index", "a")])
def test_output_takes_the_place_of_files_alone(folder: Path, tmp_path: Path, command: tuple[str, str]) -> None:
    """A folder or a pipe, or a device, given as output is refused and stays what it is."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for output in (tmp_path / "folder", tmp_path / "pipe"):
        result = run(command[0], folder / command[1], "-o", output)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert str(output) in result.stderr
    assert (tmp_path / "folder").is_dir()
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe", "root"]


def test_get_without_room_cleans_up(tmp_path: Path) -> None:
    """When the disk takes only a part, the output stays as it was, nothing lies beside it, and one line says so."""
    (tmp_path / "large.bin").write_bytes(bytes(100_000))
    output = tmp_path / "out.bin"
    output.write_text("before")
    script = (
        "import resource; from streaming.cli.app import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); main()"
    )
    command = [sys.executable, "-c", script, "get", str(tmp_path / "large.bin"), "-o", str(output)]
    # Without coverage, whose own file would not fit either.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (answer.returncode, answer.stderr.count("\n"), output.read_text()) == (1, 1, "before")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.bin", "out.bin"]


def test_get_into_a_missing_folder_is_one_line(folder: Path, tmp_path: Path) -> None:
    """An output that cannot be written is an error that names it."""
    result = run("get", folder / "a" / "s1.json", "-o", tmp_path / "no" / "out.json")
    assert result.exit_code == 1
    assert str(tmp_path / "no" / "out.json") in result.stderr


def test_index_counts_and_saves(folder: Path, tmp_path: Path) -> None:
    """`index` matches samples by name over the mapped sources, counts them, and saves an index that opens again."""
    from streaming.index import SampleIndex

    output = tmp_path / "saved.index"
    result = run("index", folder, "--mapping", "a=x", "--mapping", "b=y", "-o", output, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["samples"], told["parts"], told["dropped"]) == (5, ["x", "y"], 0)
    assert len(SampleIndex.open(output)) == 5
    assert "5 samples of x, y" in run("index", folder, "--mapping", "a=x", "--mapping", "b=y", "-o", output).stdout


def test_index_refreshes_what_is_saved(folder: Path, tmp_path: Path) -> None:
    """`--refresh` says what changed since the file was saved, and saves the new index; other settings are refused."""
    command = ("index", folder / "a", "-o", tmp_path / "a.index", "--json")
    assert "needs -o FILE" in run(*command, "--refresh").stderr
    assert json.loads(run(*command).stdout)["changes"] is None
    (folder / "a" / "new.json").write_text("{}")
    (folder / "a" / "s1.json").unlink()
    (folder / "a" / "s2.json").write_text('{"other": 1}')
    told = json.loads(run(*command, "--refresh").stdout)
    assert (told["samples"], told["changes"]) == (5, {"added": 1, "changed": 1, "removed": 1})
    assert "0 added, 0 changed, 0 removed since it was saved" in run(*command[:-1], "--refresh").stdout
    result = run(*command, "--refresh", "--exclude", "x")
    assert result.exit_code == 1
    assert "other include or exclude" in result.stderr


def test_index_tells_what_it_left_out(folder: Path) -> None:
    """Objects that are in no sample are counted by reason; `--include` and `--exclude` select for every URL."""
    (folder / "a" / "notes.docx").touch()
    (folder / "a" / "metadata.json").write_text("{}")
    result = run("index", folder / "a", "--json")
    told = json.loads(result.stdout)
    assert (told["samples"], told["skipped_objects"]) == (6, 1)
    assert told["skipped"] == {"unsupported_suffix": {".docx": 1}}
    assert told["unlikely"] == {"metadata_name": {".json": 1}}
    shown = run("index", folder / "a")
    assert "1 objects in no sample: 1 with a suffix that no codec reads (.docx 1" in shown.stdout
    assert "metadata.json" in shown.stdout
    told = json.loads(run("index", folder / "a", "--exclude", "metadata.*", "--include", "*.json", "--json").stdout)
    assert (told["samples"], told["skipped_objects"], told["unlikely"]) == (5, 0, {})


def test_what_a_source_cannot_read_is_told_alike(folder: Path) -> None:
    """A name that no path has is left out, and counted by `index`, `ls` and `doctor` in the same words."""
    (folder / "a" / "\\odd.json").touch()
    told = json.loads(run("index", folder / "a", "--json").stdout)
    assert (told["samples"], told["skipped_objects"]) == (5, 1)
    assert told["skipped"] == {"outside_root": {".json": 1}}
    words = r"1 with a name that is not a path below the root (.json 1; first '\\odd.json')"
    result = run("index", folder / "a")
    assert words in result.stdout
    result = run("ls", folder / "a")
    assert words in result.stderr
    assert len(result.stdout.splitlines()) == 5
    assert words in run("doctor", folder / "a").stdout


def test_index_of_objects_that_are_no_samples(folder: Path) -> None:
    """It fails with the counts, also under a mapping that names nothing there."""
    for path in (folder / "a").iterdir():
        path.rename(path.with_suffix(".parquet"))
    for arguments in ((), ("--mapping", "latnets=x")):
        result = run("index", folder / "a", *arguments)
        assert result.exit_code == 1
        assert ".parquet 5" in result.stderr


def test_ls_tells_what_cannot_be_listed(folder: Path) -> None:
    """Links to nothing are not listed, and said on standard error."""
    (folder / "a" / "gone.json").symlink_to("nothing.json")
    result = run("ls", folder / "a", "--json")
    assert len(result.stdout.splitlines()) == 5
    assert "1 that link to nothing (.json 1; first 'gone.json')" in result.stderr


def test_index_missing_part(folder: Path) -> None:
    """A sample that lacks a part fails by name, or is dropped and counted."""
    (folder / "b" / "s2.json").unlink()
    mapped = ("index", folder, "--mapping", "a=x", "--mapping", "b=y", "--json")
    result = run(*mapped)
    assert result.exit_code == 1
    assert "s2" in result.stderr
    told = json.loads(run(*mapped, "--missing", "drop").stdout)
    assert (told["samples"], told["dropped"]) == (4, 1)


def test_warm_reads_every_sample(config: Path) -> None:
    """`warm` reads each sample once and prints the adapter's numbers."""
    told = json.loads(run("warm", config, "--json").stdout)
    assert (told["samples"], told["failed"], told["num_items"]) == (5, 0, 5)
    assert "5 of 5 samples read" in run("warm", config).stdout


def test_warm_names_what_cannot_be_read(config: Path, folder: Path) -> None:
    """A damaged object is named on standard error, the others are read all the same, and the exit code is 1."""
    (folder / "b" / "s3.json").write_text("{")
    result = run("warm", config, "--json")
    assert result.exit_code == 1
    assert "s3.json" in result.stderr
    told = json.loads(result.stdout)
    assert (told["failed"], told["num_items"]) == (1, 4)


def test_bench_compares_with_a_plain_loop(config: Path) -> None:
    """`bench` reports rates of a plain loop, a cold and a cached pass over the same samples."""
    result = run("bench", config, "--samples", "3", "--batch-size", "2", "--json")
    told = json.loads(result.stdout)
    assert told["samples"] == 3
    assert set(told["samples_per_second"]) == {"plain", "cold", "cached"}
    assert told["stats"]["num_items"] == 3
    assert "cached" in result.stderr
    assert "cached" in run("bench", config).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("ls",),
        ("demo", "--epochs", "0"),
        ("get", "x", "--json"),
        ("index", ".", "--mapping", "a"),
        ("demo", "--data", "/nonexistent"),
        ("warm", "/nonexistent.yaml"),
        ("ls", "gopher://host/"),
    ],
)
def test_bad_usage_exits_2(arguments: tuple[str, ...]) -> None:
    """Wrong arguments and unusable settings exit with 2, without output or a traceback."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr
    assert "Traceback" not in result.stderr


def test_empty_sources_cannot_be_measured(config: Path, folder: Path) -> None:
    """`bench` over sources without samples is refused, `warm` reads nothing and is content."""
    for path in [*(folder / "a").iterdir(), *(folder / "b").iterdir()]:
        path.unlink()
    assert run("bench", config).exit_code == 2
    assert json.loads(run("warm", config, "--json").stdout)["samples"] == 0


def test_missing_root_exits_1(tmp_path: Path) -> None:
    """A root that does not exist is one line that names it, and exit code 1."""
    result = run("ls", tmp_path / "none")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "none" in result.stderr


def test_each_help_ends_in_an_example() -> None:
    """The help of the program and of each command ends in an example that begins with `streaming`."""
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    assert set(names) == {"demo", "ls", "get", "index", "warm", "bench", "doctor", "top"}
    for arguments in ([], *([name] for name in names)):
        result = run(*arguments, "--help")
        assert result.exit_code == 0
        assert "Example: streaming" in result.stdout.strip().split("\n\n")[-1]
    assert all("--json" in run(name, "--help").stdout for name in names)


def test_help_loads_nothing_heavy() -> None:
    """A fresh interpreter that imports the command line has loaded no torch, numpy, pydantic or network client."""
    heavy = ("torch", "numpy", "pydantic", "obstore", "aiohttp", "rich", "tqdm")
    script = f"import sys, streaming.cli.app\nprint([name for name in {heavy!r} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_demo_trains_from_the_cache() -> None:
    """The demo's loss falls, its second epoch comes from the cache, and the plain loop sees the same losses."""
    result = run("demo", "--epochs", "3", "--latency-ms", "1", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    streamed = [epoch for epoch in told["epochs"] if epoch["loop"] == "streaming"]
    assert [epoch["number"] for epoch in streamed] == [1, 2, 3]
    assert streamed[0]["loss"] > streamed[1]["loss"] > streamed[2]["loss"]
    assert told["losses_equal"]
    plain = [epoch for epoch in told["epochs"] if epoch["loop"] == "plain"]
    assert streamed[0]["hit_rate"] < 0.1 < 0.9 < streamed[1]["hit_rate"]
    assert sum(epoch["fetched_bytes"] for epoch in streamed) == plain[0]["fetched_bytes"] > told["recordings"]["bytes"]
    assert streamed[2]["saved_bytes"] == plain[2]["fetched_bytes"]
    assert told["cache"]["compression_ratio"] >= 2.3
    assert told["speedup"] > 0
    assert "recordings" in result.stderr


def test_demo_survives_the_death_of_its_server() -> None:
    """With --kill-primary the mirror serves the rest, and the losses are those of the plain loop."""
    result = run("demo", "--kill-primary", "--latency-ms", "1", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["losses_equal"]
    recordings = told["recordings"]["number"]
    assert told["failover"]["primary_answers"] >= recordings // 2
    assert told["failover"]["mirror_requests"] > 0
    fetched = sum(epoch["fetched_bytes"] for epoch in told["epochs"] if epoch["loop"] == "streaming")
    assert fetched == told["epochs"][-1]["fetched_bytes"]
    assert "the mirror took over" in run("demo", "--kill-primary", "--latency-ms", "1", "--epochs", "1").stdout


def test_demo_shows_a_row_for_each_epoch() -> None:
    """Without --json the rows of both loops and what they come to are on standard output."""
    lines = run("demo", "--epochs", "1", "--latency-ms", "0").stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["epoch", "1", "1"]
    assert "plain" in lines[2]
    assert "equal to the bit" in " ".join(lines)


IN_BACKGROUND = ("sh", "-c", 'trap \'\' INT; exec "$0" "$@"')
"""Starts a command as a script starts a background job: with SIGINT ignored."""


@pytest.mark.parametrize(
    ("shell", "number", "workers", "code"),
    [
        ((), signal.SIGINT, 0, 130),
        ((), signal.SIGTERM, 0, 143),
        ((), signal.SIGINT, 2, 130),
        (IN_BACKGROUND, signal.SIGTERM, 2, 143),
    ],
)
def test_interrupted_demo_leaves_nothing(
    tmp_path: Path, shell: tuple[str, ...], number: int, workers: int, code: int
) -> None:
    """Ctrl-C or SIGTERM in the middle of training ends quietly: no process, temporary folder or shared memory stays."""
    command = [*shell, sys.executable, "-m", "streaming.cli", "demo", "--data", str(SHIPPED), "--latency-ms", "1"]
    with started([*command, "--epochs", "100000", "--workers", str(workers)], TMPDIR=str(tmp_path)) as process:
        wait_for_row(process, "2")
        family = family_of(process, workers)
        assert [path.name for path in tmp_path.glob("streaming-demo-*")]
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, list(tmp_path.iterdir())) == (code, [])
    assert "Traceback" not in stderr
    assert psutil.wait_procs(family[1:], timeout=60)[1] == []
    shared = [path.name for path in Path("/dev/shm").glob("*")]
    assert not [name for name in shared for process in family if f"_{process.pid}_" in name]
