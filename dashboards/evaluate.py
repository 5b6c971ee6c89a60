"""Run the queries of a panel on a Prometheus as Grafana does: with its variables, over a time range or at its end."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["PrometheusError", "Range", "Series", "ask", "board_of", "legend_of", "panels_of", "substituted"]

FOLDER: Final = Path(__file__).resolve().parent
TIMEOUT_S: Final = 30.0

Values = Mapping[str, str | Sequence[str]]
"""Value, or values, of each variable; a missing one has all values."""


class PrometheusError(Exception):
    """A Prometheus that does not answer, or refuses a query; says which query and why."""


@dataclass(frozen=True, slots=True)
class Range:
    """The time range of a dashboard in seconds since 1970, and how far its points and scrapes are apart."""

    start: float
    end: float
    step_s: float
    scrape_s: float = 1.0

    @property
    def rate_interval_s(self) -> float:
        """Grafana's `$__rate_interval`: max(step + scrape interval, 4 * scrape interval)."""
        return max(self.step_s + self.scrape_s, 4 * self.scrape_s)


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer: its labels and its points."""

    labels: dict[str, str]
    times: tuple[float, ...]
    values: tuple[float, ...]


def board_of(name: str) -> dict[str, Any]:
    """Load a dashboard from its file."""
    board: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return board


def panels_of(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the panels of a dashboard in order, without the rows."""
    return (panel for panel in board["panels"] if panel["type"] != "row")


def substituted(expression: str, variables: Values, over: Range) -> str:
    """Replace the variables in an expression by their values, also `$__rate_interval` and the like."""
    values = {name: value if isinstance(value, str) else f"({'|'.join(value)})" for name, value in variables.items()}
    values |= {
        "__rate_interval": f"{round(1000 * over.rate_interval_s)}ms",
        "__interval": f"{round(1000 * over.step_s)}ms",
        "__range": f"{max(1, round(over.end - over.start))}s",
    }
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values.get(found[1] or found[2], ".*"), expression)


def ask(url: str, target: Mapping[str, Any], variables: Values, over: Range) -> list[Series]:
    """Run a query of a panel: return its series over the range, or one point each at its end for an instant query.

    Raises:
        PrometheusError: if Prometheus does not answer, or refuses the query.
    """
    query = substituted(target["expr"], variables, over)
    if target.get("instant"):
        return _answer(f"{url}/api/v1/query", {"query": query, "time": over.end})
    arguments = {"query": query, "start": over.start, "end": over.end, "step": over.step_s}
    return _answer(f"{url}/api/v1/query_range", arguments)


def legend_of(text: str, labels: Mapping[str, str]) -> str:
    """Replace each `{{label}}` in a legend by the value of the label."""
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), text)


def _answer(address: str, arguments: Mapping[str, Any]) -> list[Series]:
    try:
        with urllib.request.urlopen(f"{address}?{urllib.parse.urlencode(arguments)}", timeout=TIMEOUT_S) as answer:
            data = json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        with error:
            raise PrometheusError(f"{arguments['query']}: {error.read().decode(errors='replace')}") from error
    except OSError as error:
        raise PrometheusError(f"no Prometheus answers at {address}: {error}; start it or give its URL") from error
    if data["resultType"] == "scalar":
        return [_series({}, [data["result"]])]
    return [_series(row["metric"], row.get("values") or [row["value"]]) for row in data["result"]]


def _series(labels: dict[str, str], points: Sequence[tuple[float, str]]) -> Series:
    return Series(labels, tuple(float(at) for at, _ in points), tuple(float(value) for _, value in points))
