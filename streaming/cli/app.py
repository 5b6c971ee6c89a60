"""The `streaming` command: parse, call, print. Each command is a module of `streaming.cli`, loaded when used.

Data go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 bad usage or
configuration, 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streaming.cli.exit_codes import outcome, raise_on_sigterm

__all__ = ["app", "main"]

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 130 Ctrl-C, 143 SIGTERM."

# Plain help and plain tracebacks: loading rich for them would triple the time of `streaming --help`.
app = typer.Typer(
    name="streaming",
    help="Stream training data from local disk, S3, GCS, the Hub and HTTP through a compressed cache to PyTorch.",
    epilog=f"Example: streaming demo --epochs 3    {EXIT_CODES}",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]
_URL = "a path, or a URL that begins with file://, http://, https://, s3://, gs:// or hf://"
Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML or JSON file with the adapter's settings.")]


def _example(text: str) -> str:
    return f"Example: streaming {text}"


@app.command(epilog=_example("demo --epochs 3 --latency-ms 50 --json"))
def demo(
    epochs: Annotated[int, typer.Option(min=1, help="Times over all recordings.")] = 2,
    data: Annotated[Path | None, typer.Option(help="Folder like the repository's examples/data.")] = None,
    latency_ms: Annotated[float, typer.Option(min=0, help="Wait of the web server before each answer.")] = 20.0,
    workers: Annotated[int, typer.Option(min=0, help="DataLoader workers of the streamed run.")] = 0,
    kill_primary: Annotated[
        bool, typer.Option("--kill-primary", help="Stop the server half-way; a mirror takes over.")
    ] = False,
    step_ms: Annotated[float, typer.Option(min=0, help="How long the device takes for each step.")] = 0.0,
    loop: Annotated[bool, typer.Option("--loop", help="Stream until stopped, without the plain loop.")] = False,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve metrics of the run at this port; 0: any.")
    ] = None,
    metrics_addr: Annotated[str, typer.Option(help="Address to serve them at; 0.0.0.0: all.")] = "127.0.0.1",
    metrics_file: Annotated[Path | None, typer.Option(help="Write them to this .prom file, for a collector.")] = None,
    json: Json = False,
) -> None:
    """Train a tiny model on real recordings from a slow web server, then the same with a plain loop."""
    with outcome():
        from streaming.cli.demo.command import show_demo
        from streaming.cli.demo.run import DemoSettings

        settings = DemoSettings(
            data=data,
            epochs=epochs,
            latency_ms=latency_ms,
            workers=workers,
            kill_primary=kill_primary,
            step_ms=step_ms,
            is_endless=loop,
            metrics_port=metrics_port,
            metrics_addr=metrics_addr,
            metrics_file=metrics_file,
        )
        show_demo(settings, json)


@app.command(epilog=_example("ls http://127.0.0.1:8000/latents/ --json"))
def ls(
    url: Annotated[str, typer.Argument(metavar="URL", help=f"Folder: {_URL}.")],
    prefix: Annotated[str, typer.Option(help="Only objects whose path begins with this.")] = "",
    json: Json = False,
) -> None:
    """List the objects of a source: size, ETag and path, one a line (with --json one JSON object a line)."""
    with outcome():
        from streaming.cli.ls import list_objects

        list_objects(url, prefix, json)


@app.command(epilog=_example("get http://127.0.0.1:8000/latents/0001.pt -o 0001.pt"))
def get(
    url: Annotated[str, typer.Argument(metavar="URL", help=f"One object: {_URL}.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write, whole or not at all.")] = None,
    json: Json = False,
) -> None:
    """Write one object, as it is stored, to standard output or a file (--json, which needs -o, prints its metadata)."""
    if json and output is None:
        raise typer.BadParameter("--json needs -o FILE: the object itself goes to standard output otherwise")
    with outcome():
        from streaming.cli.get import get_object

        get_object(url, output, json)


@app.command(
    epilog=_example("index /data/latents http://127.0.0.1:8000/conditions/ --mapping latents=latent -o my.index")
)
def index(
    urls: Annotated[
        list[str], typer.Argument(metavar="URL...", help=f"Folders whose files are parts of the samples, each {_URL}.")
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to save the index in.")] = None,
    mapping: Annotated[
        list[str] | None, typer.Option(metavar="NAME=KEY", help="Source or folder, and its key in the sample; repeat.")
    ] = None,
    missing: Annotated[str, typer.Option(help="raise: name a sample that lacks a part; drop: leave it out.")] = "raise",
    include: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only objects that match this, of every URL; repeat.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="No objects that match this, such as *.txt; repeat.")
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Say how many samples were added, changed and removed since -o was saved.")
    ] = False,
    json: Json = False,
) -> None:
    """Match the samples of the sources by name, count them, and save the index."""
    with outcome():
        from streaming.cli.index import build_index

        build_index(
            urls,
            output,
            mapping or [],
            missing,
            json,
            include=include or (),
            exclude=exclude or (),
            refresh=refresh,
        )


@app.command(epilog=_example("warm train.yaml"))
def warm(config: Config, json: Json = False) -> None:
    """Read every sample once: warms caches on the way, names each sample that cannot be read, prints the numbers."""
    with outcome():
        from streaming.cli.warm import warm_samples

        warm_samples(config, json)


@app.command(epilog=_example("bench train.yaml --samples 500"))
def bench(
    config: Config,
    samples: Annotated[int, typer.Option(min=1, help="Most samples to read.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples asked for at once.")] = 64,
    json: Json = False,
) -> None:
    """Measure samples per second: cold, cached, and with a plain loop that reads one object at a time."""
    with outcome():
        from streaming.cli.bench import bench_samples

        bench_samples(config, samples, batch_size, json)


@app.command(
    epilog=_example("doctor s3://bucket/latents http://127.0.0.1:8000/latents/ --mirrors; streaming doctor --live 4711")
)
def doctor(
    urls: Annotated[
        list[str],
        typer.Argument(metavar="URL...", help=f"Folders, each {_URL}; with --live PIDs or metrics URLs of runs."),
    ],
    mirrors: Annotated[
        bool, typer.Option("--mirrors", help="Compare the listings of sources that should be replicas.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Diagnose a run by its metrics: what makes the trainer wait.")
    ] = False,
    seconds: Annotated[
        float, typer.Option(min=0, help="With --live: length of the window; 0: since the start.")
    ] = 10.0,
    json: Json = False,
) -> None:
    """Check credentials, endpoint, clock, listing, latency and throughput; say the likely cause of a failure."""
    if live and mirrors:
        raise typer.BadParameter("--mirrors compares sources, --live diagnoses a run: use one of them")
    with outcome():
        if live:
            from streaming.cli.doctor_live import examine_live

            examine_live(urls, seconds, json)
            return
        from streaming.cli.doctor import examine

        examine(urls, mirrors, json)


@app.command(epilog=_example("top 4711 http://node7:8000"))
def top(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="TARGET...", help="Runs: PID of a run or of its parent, or metrics URL."),
    ],
    seconds: Annotated[float, typer.Option(min=0, help="Window of the figures and the verdict.")] = 10.0,
    once: Annotated[bool, typer.Option("--once", help="Print one window and end.")] = False,
    json: Json = False,
) -> None:
    """Show every second what the ranks of a run wait for, and what to change; Ctrl-C ends it."""
    with outcome():
        from streaming.cli.top import show_top

        show_top(targets, seconds, once, json)


def main() -> None:
    """Run the command line; the entry point of the `streaming` script."""
    raise_on_sigterm()
    app()
