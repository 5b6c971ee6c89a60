"""Parts that all dashboards share: variables, links between them, marks of alerts and restarts, time range, refresh."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
    TextBoxVariable,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from dashboards.colours import BAD
from dashboards.panels import SOURCE
from dashboards.queries import ALERTS, selector

__all__ = ["RUNBOOKS", "TAG", "VARIABLES", "assemble"]

TAG: Final = "streaming"
RUNBOOKS: Final = "/public/runbooks"
"""Where a browser finds the folder `docs/runbooks`; the variable `runbooks` changes it."""

VARIABLES: Final[dict[str, tuple[str, str]]] = {
    "job": ("Scrape job: one training run, or several.", "label_values(streaming_start_time_seconds, job)"),
    "dataset": (
        "Name of the adapter.",
        'label_values(streaming_reads_total{job=~"$job"}, dataset)',
    ),
    "rank": ("Process of the training run.", 'label_values(streaming_start_time_seconds{job=~"$job"}, rank)'),
    "source": (
        "A replica.",
        'label_values(streaming_source_requests_total{job=~"$job",dataset=~"$dataset"}, source)',
    ),
}
"""Each has several values or all; all is any value, so that what appears later is shown too."""

Rows = Mapping[str, Sequence[Any]]
"""Title of a row to its panels."""


def assemble(name: str, title: str, description: str, rows: Rows, *, refresh: str) -> dict[str, Any]:
    """A whole dashboard as JSON values. `name` makes its uid; panels are numbered from 1 in their order."""
    board = Dashboard(title).uid(f"streaming-{name}").description(description).tags([TAG]).timezone("browser")
    board.time("now-1h", "now").refresh(refresh).editable().tooltip(model.DashboardCursorSync.CROSSHAIR).version(1)
    for variable in _variables():
        board.with_variable(variable)
    for link in _links():
        board.link(link)
    board.annotation(_alerts()).annotation(_restarts())
    number = 0
    for heading, panels in rows.items():
        number += 1
        board.with_row(Row(heading).id(number))
        for panel in panels:
            number += 1
            board.with_panel(panel.id(number))
    made: dict[str, Any] = json.loads(JSONEncoder().encode(board.build()))
    return _finished(made)


def _variables() -> list[Any]:
    chosen: list[Any] = [DatasourceVariable("datasource").label("Prometheus").type("prometheus")]
    everything = model.VariableOption(selected=True, text="All", value="$__all")
    for name, (text, query) in VARIABLES.items():
        variable = QueryVariable(name).label(name).description(text).query(query).datasource(SOURCE).current(everything)
        variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.NUMERICAL_ASC)
        chosen.append(variable.multi(True).include_all(True).all_value(".*"))
    runbooks = TextBoxVariable("runbooks").label("runbooks at").default_value(RUNBOOKS)
    place = model.VariableOption(selected=True, text=RUNBOOKS, value=RUNBOOKS)
    chosen.append(runbooks.description("Where the folder docs/runbooks is served.").current(place).options([place]))
    return chosen


def _links() -> list[DashboardLink]:
    boards = DashboardLink("Streaming").type(model.DashboardLinkType.DASHBOARDS).tags([TAG])
    pages = DashboardLink("Runbooks").type(model.DashboardLinkType.LINK).icon("doc").url("${runbooks}/README.md")
    return [boards.include_vars(True).keep_time(True).as_dropdown(False), pages.target_blank(True)]


def _alerts() -> AnnotationQuery:
    query = AnnotationQuery().name("Alerts").datasource(SOURCE).enable(True).icon_color(BAD)
    return query.expr(f'ALERTS{{alertstate="firing",{ALERTS}}}')


def _restarts() -> AnnotationQuery:
    query = AnnotationQuery().name("Starts").datasource(SOURCE).enable(True).icon_color("#8AB8FF")
    return query.expr(f"{selector('start_time_seconds')} * 1000")


def _finished(board: dict[str, Any]) -> dict[str, Any]:
    """Add what a Prometheus annotation has and the kit does not know: its texts, and that a value is a time."""
    alerts, starts = board["annotations"]["list"]
    alerts.update(titleFormat="{{alertname}}", textFormat="{{dataset}} {{source}} {{stage}}", tagKeys="severity,rank")
    starts.update(titleFormat="rank {{rank}} started", useValueForTime=True)
    return board
