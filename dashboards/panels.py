"""The kinds of panels, each made in one way: title, description with what is normal, unit, size, queries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from grafana_foundation_sdk.builders import bargauge, common, heatmap, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.dashboard import DashboardLink, FieldColor, ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.colours import BREAKER, GOOD

__all__ = [
    "SOURCE",
    "Text",
    "bars",
    "heat",
    "limits",
    "lines",
    "matrix",
    "rows",
    "stack",
    "tile",
    "timeline",
]

SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
Panel = Any
"""Builders of the kit share no class that has the methods of all panels."""

Queries = Mapping[str, str]
"""Legend to expression; `{{label}}` in a legend is the value of a label."""

Steps = Sequence[tuple[float | None, str]]
"""Colours from a value on; the first has None."""


@dataclass(frozen=True, slots=True)
class Text:
    """Title and description of a panel.

    Attributes:
        title: a few words.
        what: what is shown.
        normal: what it looks like when all is well.
        act: what to do when it does not.
        runbook: name of the alert whose page in docs/runbooks says more, or "".
        dashboard: the dashboard that goes into depth, or "".
    """

    title: str
    what: str
    normal: str
    act: str
    runbook: str = ""
    dashboard: str = ""

    @property
    def description(self) -> str:
        """The description in Markdown, as Grafana shows it."""
        return f"{self.what}\n\n**Normal:** {self.normal}\n\n**If not:** {self.act}"


def lines(text: Text, unit: str, width: int, queries: Queries, *, height: int = 8, **look: Any) -> Panel:
    """Lines over time. `look`: `colours` {legend: colour}, `top`: the highest value of the axis."""
    panel = _common(timeseries.Panel(), text, unit, width, height, queries)
    panel.line_width(1.5).fill_opacity(look.pop("fill", 8)).show_points(shapes.VisibilityMode.NEVER).min(0)
    panel.legend(_legend()).tooltip(_tooltip())
    if (top := look.pop("top", None)) is not None:
        panel.max(top)
    return _coloured(panel, look.pop("colours", {}))


def stack(text: Text, unit: str, width: int, queries: Queries, *, height: int = 8, **look: Any) -> Panel:
    """Stacked areas, see `lines`."""
    panel = lines(text, unit, width, queries, height=height, fill=75, **look)
    return panel.line_width(0).stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL).group("A"))


def tile(text: Text, unit: str, width: int, queries: Queries, *, steps: Steps = ((None, GOOD),), **look: Any) -> Panel:
    """One number, with its background coloured. `look`: `named` shows the legend too, `none` the text without data."""
    panel = _common(stat.Panel(), text, unit, width, look.pop("height", 4), queries, instant=True)
    panel.reduce_options(_last()).thresholds(limits(steps)).color_mode(shapes.BigValueColorMode.BACKGROUND)
    panel.graph_mode(shapes.BigValueGraphMode.NONE).no_value(look.pop("none", "no data"))
    named = look.pop("named", False)
    panel.text_mode(shapes.BigValueTextMode.VALUE_AND_NAME if named else shapes.BigValueTextMode.VALUE)
    return _coloured(panel, look.pop("colours", {}), decimals=look.pop("decimals", None))


def bars(text: Text, unit: str, width: int, queries: Queries, *, steps: Steps, height: int = 8, top: float) -> Panel:
    """One bar for each series, with its value."""
    panel = _common(bargauge.Panel(), text, unit, width, height, queries, instant=True)
    panel.reduce_options(_last()).thresholds(limits(steps)).min(0).max(top)
    return panel.orientation(shapes.VizOrientation.HORIZONTAL).display_mode(shapes.BarGaugeDisplayMode.BASIC)


def heat(text: Text, unit: str, width: int, expression: str, *, height: int = 8) -> Panel:
    """Buckets of a histogram over time."""
    panel = _common(heatmap.Panel(), text, unit, width, height, {"{{le}}": expression}, shape=PromQueryFormat.HEATMAP)
    panel.calculate(False).y_axis(heatmap.YAxisConfig().unit(unit)).show_legend()
    colours = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Spectral").steps(32).reverse(False)
    return panel.color(colours).cell_values(heatmap.CellValues().unit("short"))


def timeline(text: Text, width: int, queries: Queries, *, height: int = 8) -> Panel:
    """The states of breakers over time: numbers as in `BREAKER`."""
    panel = _common(statetimeline.Panel(), text, "short", width, height, queries)
    names = {
        str(value): model.ValueMappingResult(text=name, color=colour, index=value)
        for value, (name, colour) in BREAKER.items()
    }
    steps = [(None if value == 0 else float(value), colour) for value, (_, colour) in BREAKER.items()]
    panel.mappings([model.ValueMap(options=names)]).thresholds(limits(steps)).show_value(shapes.VisibilityMode.NEVER)
    return panel.color_scheme(FieldColor().mode(model.FieldColorModeId.THRESHOLDS)).legend(_legend())


def rows(
    text: Text, unit: str, width: int, expression: str, *, columns: Sequence[str], value: str, height: int
) -> Panel:
    """A table with a row for each series: the labels named, then the value."""
    panel = _common(
        table.Panel(), text, unit, width, height, {"": expression}, instant=True, shape=PromQueryFormat.TABLE
    )
    order = {name: place for place, name in enumerate((*columns, "Value"))}
    kept = {"pattern": f"^({'|'.join(order)})$"}
    panel.with_transformation(model.DataTransformerConfig(id_val="filterFieldsByName", options={"include": kept}))
    options = {"indexByName": order, "renameByName": {"Value": value}, "excludeByName": {}}
    return panel.with_transformation(model.DataTransformerConfig(id_val="organize", options=options))


def matrix(
    text: Text, unit: str, width: int, expression: str, *, row: str, column: str, steps: Steps, height: int = 8
) -> Panel:
    """A table with a row for each value of one label, a column for each of another, and coloured cells."""
    panel = _common(
        table.Panel(), text, unit, width, height, {"": expression}, instant=True, shape=PromQueryFormat.TABLE
    )
    options: dict[str, object] = {"columnField": column, "rowField": row, "valueField": "Value"}
    panel.with_transformation(model.DataTransformerConfig(id_val="groupingToMatrix", options=options))
    cell = model.DynamicConfigValue("custom.cellOptions", {"type": "color-background"})
    return panel.thresholds(limits(steps)).override_by_regexp(f"^(?!{row}).*", [cell])


def limits(steps: Steps) -> ThresholdsConfig:
    """Colours from a value on."""
    made = [model.Threshold(value=value, color=colour) for value, colour in steps]
    return ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)


def _common(
    panel: Panel,
    text: Text,
    unit: str,
    width: int,
    height: int,
    queries: Queries,
    *,
    instant: bool = False,
    shape: PromQueryFormat = PromQueryFormat.TIME_SERIES,
) -> Panel:
    panel.title(text.title).description(text.description).unit(unit).span(width).height(height).datasource(SOURCE)
    for place, (legend, expression) in enumerate(queries.items()):
        query = Dataquery().expr(expression).legend_format(legend).ref_id("ABCDEFGH"[place]).format(shape)
        panel.with_target(query.instant() if instant else query.range())
    return panel.links(_links(text))


def _links(text: Text) -> list[DashboardLink]:
    links = []
    if text.dashboard:
        link = DashboardLink(f"More: {text.dashboard}").type(model.DashboardLinkType.LINK)
        links.append(link.url(f"/d/streaming-{text.dashboard}").include_vars(True).keep_time(True))
    if text.runbook:
        page = "-".join(re.findall("[A-Z][a-z]+", text.runbook.removeprefix("Streaming"))).lower()
        link = DashboardLink(f"Runbook: {text.runbook}").type(model.DashboardLinkType.LINK)
        links.append(link.url(f"${{runbooks}}/{page}.md").target_blank(True))
    return links


def _coloured(panel: Panel, colours: Mapping[str, str], *, decimals: int | None = None) -> Panel:
    for name, colour in colours.items():
        fixed = model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})
        panel.override_by_name(name, [fixed])
    return panel if decimals is None else panel.decimals(decimals)


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)


def _legend() -> common.VizLegendOptions:
    legend = common.VizLegendOptions().show_legend(True).placement(shapes.LegendPlacement.BOTTOM)
    return legend.display_mode(shapes.LegendDisplayMode.LIST)


def _tooltip() -> common.VizTooltipOptions:
    return common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING)
