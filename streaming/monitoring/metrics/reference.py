"""The reference page of all metrics, made from their list.

To write it: `python -m streaming.monitoring.metrics.reference docs/reference/metrics.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from streaming.monitoring.metrics.families import GROUPS, VALUES, Family
from streaming.telemetry.counters import LATENCY_BUCKETS_S

__all__ = ["main", "markdown"]

_HEAD = """\
# Metrics

<!-- Made by `python -m streaming.monitoring.metrics.reference docs/reference/metrics.md`;
a test says when it is stale. -->

The metrics that a process serves, writes or pushes; [how to](../howto/monitor.md) set that up. Units are base units:
seconds, bytes, and ratios from 0 to 1. Every family also has the label `rank` (the variable `RANK`, else "0").

`dataset` is the `name` of an adapter ("data" unless given). Of two that are open at once under one name, the one that
was read later gets the lowest free number: `data`, `data-2`. `source` is the name of a source or mirror.

Counters begin with the process and never go back while it lives. What a closed data set counted stays in the totals of
its name, and the next one of that name continues from there; `adapter.reset_metrics()` has no effect on them. Gauges
are of this moment and disappear with the data set. A number that is not known is left out, never 0.

A process counts the work of its DataLoader workers itself, as it reads for them; nothing is lost when a worker is
killed. With `owner="process"` the numbers come from that process; while it does not answer, the last ones are given
again and `streaming_scrape_errors_total` counts that.
"""


def markdown() -> str:
    """Return the text of the page."""
    parts = [_HEAD, *(_group(title, families) for title, families in GROUPS.items()), "\n".join(_values())]
    return "\n".join(parts) + "\n"


def _group(title: str, families: tuple[Family, ...]) -> str:
    rows = [f"| `{family.name}` | {family.kind} | {_labels(family)} | {family.help} |" for family in families]
    return "\n".join([f"## {title}", "", "| Name | Kind | Labels | Meaning |", "| --- | --- | --- | --- |", *rows, ""])


def _labels(family: Family) -> str:
    return " ".join(f"`{label}`" for label in family.labels) or "none"


def _values() -> Iterator[str]:
    yield from ("## Values of labels", "", "| Label | Values |", "| --- | --- |")
    for label, values in VALUES.items():
        yield f"| `{label}` | {' '.join(f'`{value}`' for value in values)} |"
    yield f"| `le` of histograms, in seconds | {' '.join(f'`{bound}`' for bound in LATENCY_BUCKETS_S)} `+Inf` |"


def main(arguments: list[str]) -> int:
    """Write the page to the file that the arguments name; return 2 if they do not name one."""
    if len(arguments) != 1:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    Path(arguments[0]).write_text(markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
