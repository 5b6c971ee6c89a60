"""`streaming demo`."""

from __future__ import annotations

from typing import Any

import typer

from streaming.cli.demo.run import DemoSettings, Epoch, run_demo
from streaming.cli.printing import Columns, human_bytes, print_json, print_line

__all__ = ["show_demo"]

HEADINGS = ("epoch", "samples/s", "hit rate", "waits", "waited", "fetched", "saved", "loss")


def show_demo(settings: DemoSettings, as_json: bool) -> None:
    """Run the demo and print a row for each epoch and a summary, or one JSON object at the end."""
    columns = Columns(HEADINGS, to_stderr=as_json)
    result = run_demo(
        settings,
        on_start=lambda text: print_line(text, to_stderr=True),
        on_epoch=lambda epoch: columns.add(*_cells(epoch), style="dim" if epoch.loop == "plain" else None),
    )
    typer.echo(_summary(result), err=as_json)
    if as_json:
        print_json(result)


def _cells(epoch: Epoch) -> tuple[str, ...]:
    cached = ("-", "-", "-", human_bytes(epoch.fetched_bytes), "-")
    if epoch.hit_rate is not None:
        cached = (
            f"{epoch.hit_rate:.0%}",
            f"{epoch.waits}",
            f"{epoch.wait_seconds:.2f} s",
            human_bytes(epoch.fetched_bytes),
            human_bytes(epoch.saved_bytes or 0),
        )
    label = f"{epoch.number}" if epoch.loop == "streaming" else f"{epoch.number} plain"
    return label, f"{epoch.samples_per_second:.0f}", *cached, f"{epoch.loss:.3f}"


def _summary(result: dict[str, Any]) -> str:
    seconds = {
        loop: sum(epoch["seconds"] for epoch in result["epochs"] if epoch["loop"] == loop)
        for loop in ("streaming", "plain")
    }
    cache = result["cache"]
    failover = result.get("failover")
    survived = failover and (
        f"The server stopped after {failover['primary_answers']} answers; the mirror took over with "
        f"{failover['mirror_requests']} requests.\n"
    )
    return (survived or "") + (
        f"All epochs: {seconds['streaming']:.2f} s streamed, {seconds['plain']:.2f} s with a plain loop that reads one "
        f"recording at a time: {result['speedup']:.1f} times as long.\n"
        f"The losses of both are {'equal to the bit' if result['losses_equal'] else 'NOT equal'}. The cache keeps "
        f"{cache['samples']} prepared samples, {human_bytes(cache['bytes'])}, in {human_bytes(cache['stored_bytes'])}: "
        f"{cache['compression_ratio']:.1f} times smaller."
    )
