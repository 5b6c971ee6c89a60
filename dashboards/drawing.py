"""Draws one panel of a dashboard with matplotlib, in Grafana's look: each kind of panel has one function."""

from __future__ import annotations

import datetime
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dashboards.colours import PALETTE
from dashboards.evaluate import Range, Series, legend_of

__all__ = ["DARK", "LIGHT", "Look", "draw_panel", "text_of"]


@dataclass(frozen=True, slots=True)
class Look:
    """Colours of a page."""

    page: str
    panel: str
    text: str
    grid: str
    heat: str


DARK: Final = Look(page="#111217", panel="#181b1f", text="#ccccdc", grid="#2c2f36", heat="inferno")
LIGHT: Final = Look(page="#f4f5f5", panel="#ffffff", text="#24292e", grid="#e2e4e7", heat="YlOrRd")

Answers = Sequence[tuple[Mapping[str, Any], Sequence[Series]]]
"""Each query of a panel with its result."""

Place = tuple[float, float, float, float]


def text_of(value: float, unit: str, decimals: int | None = None) -> str:
    """Format a number in a unit as Grafana does."""
    if not math.isfinite(value):
        return "no data"
    if unit == "percentunit":
        return f"{100 * value:.{1 if decimals is None else decimals}f} %"
    if unit == "s":
        return _seconds(value)
    if unit in ("bytes", "Bps"):
        return _scaled(value, 1024 if unit == "bytes" else 1000) + ("iB" if unit == "bytes" else "B/s")
    suffix = {"reqps": " req/s", "ops": " ops/s", "x": "x"}.get(unit, "")
    return (f"{value:.{decimals}f}" if decimals is not None else _scaled(value, 1000)) + suffix


def _scaled(value: float, base: int) -> str:
    if value == 0:
        return "0 " if base == 1024 else "0"
    power = max(0, min(4, int(math.log(abs(value), base))))
    return f"{value / base**power:.3g} {'KMGT'[power - 1]}" if power else f"{value:.3g}"


def _seconds(value: float) -> str:
    for size, name in ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms")):
        if abs(value) >= size:
            return f"{value / size:.3g} {name}"
    return f"{value * 1e6:.3g} µs" if value else "0 s"


def draw_panel(
    figure: Figure, place: Place, panel: Mapping[str, Any], answers: Answers, over: Range, look: Look
) -> None:
    """Draw a panel with its title into a place of the figure: left, bottom, width and height, as fractions of it."""
    left, bottom, width, height = place
    figure.patches.append(
        Rectangle(
            (left, bottom),
            width,
            height,
            transform=figure.transFigure,
            facecolor=look.panel,
            edgecolor=look.grid,
            zorder=-1,
        )
    )
    inch_x, inch_y = 1 / figure.get_figwidth(), 1 / figure.get_figheight()
    title: dict[str, Any] = {"color": look.text, "fontsize": 8, "fontweight": "bold", "va": "top"}
    figure.text(left + 0.07 * inch_x, bottom + height - 0.06 * inch_y, panel["title"], **title)
    kind = panel["type"]
    margins = _MARGINS.get(kind, (0.1, 0.08, 0.1, 0.26))
    inner = (
        left + margins[0] * inch_x,
        bottom + margins[1] * inch_y,
        width - (margins[0] + margins[2]) * inch_x,
        height - (margins[1] + margins[3]) * inch_y,
    )
    axes = figure.add_axes(inner, facecolor=look.panel)
    _KINDS[kind](axes, panel, answers, over, look)


def _named(panel: Mapping[str, Any], answers: Answers) -> list[tuple[str, Series, str]]:
    """Every series with its legend and colour."""
    fixed = {
        each["matcher"]["options"]: part["value"]["fixedColor"]
        for each in panel["fieldConfig"]["overrides"]
        for part in each["properties"]
        if part["id"] == "color"
    }
    found = [(legend_of(target.get("legendFormat", ""), s.labels), s) for target, series in answers for s in series]
    return [(name, each, fixed.get(name, PALETTE[place % len(PALETTE)])) for place, (name, each) in enumerate(found)]


def _lines(axes: Axes, panel: Mapping[str, Any], answers: Answers, over: Range, look: Look) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    named = _named(panel, answers)
    is_stacked = defaults["custom"].get("stacking", {}).get("mode") == "normal"
    if is_stacked:
        _areas(axes, named)
    else:
        for name, each, colour in named:
            axes.plot(_dates(each.times), each.values, color=colour, linewidth=1.2, label=name)
    _time_axis(axes, over)
    top = defaults.get("max")
    unit = defaults["unit"]
    highest = top if top is not None else _highest(named, is_stacked)
    axes.set_ylim(0, 1.04 * highest if top is None else top)
    ticks = _ticks(highest, 1024 if unit == "bytes" else 10)
    fine = {"decimals": 0 if highest > 0.1 else 1} if unit == "percentunit" else {}
    axes.set_yticks(ticks, [text_of(tick, unit, **fine) for tick in ticks])
    axes.set_axisbelow(True)
    axes.grid(color=look.grid, linewidth=0.6)
    _plain(axes, look)
    _legend(axes, named, look)


def _highest(named: Sequence[tuple[str, Series, str]], is_stacked: bool) -> float:
    """The highest point that is drawn; 1 where all is 0."""
    heights: dict[float, float] = {}
    for _, each, _ in named:
        for at, value in zip(each.times, each.values, strict=True):
            if math.isfinite(value):
                heights[at] = heights.get(at, 0.0) + value if is_stacked else max(heights.get(at, 0.0), value)
    return max(heights.values(), default=0.0) or 1.0


def _ticks(highest: float, base: int) -> list[float]:
    """Five or so round numbers from 0 to the highest; round is 1, 2 or 5 times a power of the base, or of 10 below."""
    power = float(base ** math.floor(math.log(highest, base))) if base > 10 else 1.0
    rough = highest / power / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * each for each in (1, 2, 5, 10) if size * each >= rough * 0.999) * power
    return [step * number for number in range(int(highest / step * 1.001) + 1)]


def _areas(axes: Axes, named: Sequence[tuple[str, Series, str]]) -> None:
    times = sorted({at for _, each, _ in named for at in each.times})
    if not times:
        return
    below = [0.0] * len(times)
    for name, each, colour in named:
        at = {t: v for t, v in zip(each.times, each.values, strict=True) if math.isfinite(v)}
        above = [base + at.get(t, 0.0) for base, t in zip(below, times, strict=True)]
        axes.fill_between(_dates(times), below, above, color=colour, linewidth=0, label=name)
        below = above


def _legend(axes: Axes, named: Sequence[tuple[str, Series, str]], look: Look) -> None:
    """Draw the legends below the panel, except those of series that are always 0."""
    shown = [(name, colour) for name, each, colour in named if any(v for v in each.values if math.isfinite(v))]
    shown = (shown or [(name, colour) for name, _, colour in named])[:12]
    if shown:
        marks = [Rectangle((0, 0), 1, 1, color=colour) for _, colour in shown]
        style = {"fontsize": 6.5, "frameon": False, "labelcolor": look.text, "handlelength": 0.9, "handleheight": 0.5}
        spacing = {"columnspacing": 0.9, "handletextpad": 0.4, "borderaxespad": 0.0, "labelspacing": 0.25}
        columns = max(1, min(len(shown), round(axes.get_window_extent().width / 70)))
        names = [name for name, _ in shown]
        axes.legend(marks, names, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=columns, **style, **spacing)


def _tile(axes: Axes, panel: Mapping[str, Any], answers: Answers, over: Range, look: Look) -> None:
    named = _named(panel, answers)
    defaults = panel["fieldConfig"]["defaults"]
    value = named[0][1].values[-1] if named else math.nan
    fixed = {each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]}
    is_known = math.isfinite(value)
    colour = _step_colour(defaults, value) if is_known else look.grid
    if named and named[0][0] in fixed:
        colour = named[0][2]
    text = text_of(value, defaults["unit"], defaults.get("decimals")) if is_known else defaults["noValue"]
    _plain(axes, look, bare=True)
    axes.set_facecolor(colour)
    has_name = panel["options"]["textMode"] == "value_and_name" and named
    axes.text(
        0.5, 0.4 if has_name else 0.5, text, color="#111217", ha="center", va="center", fontsize=17, weight="bold"
    )
    if has_name:
        axes.text(0.5, 0.8, named[0][0], color="#111217", ha="center", va="center", fontsize=9)


def _bars(axes: Axes, panel: Mapping[str, Any], answers: Answers, over: Range, look: Look) -> None:
    named = _named(panel, answers)
    defaults = panel["fieldConfig"]["defaults"]
    _plain(axes, look, bare=True)
    axes.set_xlim(0, 1.2)
    axes.set_ylim(max(len(named), 4) - 0.4, -0.6)
    for place, (name, each, _) in enumerate(named):
        value = each.values[-1] if math.isfinite(each.values[-1]) else 0.0
        axes.barh(place, 0.8, left=0.22, color=look.grid, height=0.6)
        axes.barh(place, 0.8 * value / defaults["max"], left=0.22, color=_step_colour(defaults, value), height=0.6)
        axes.text(0.2, place, name, color=look.text, ha="right", va="center", fontsize=7)
        axes.text(1.18, place, text_of(value, defaults["unit"]), color=look.text, ha="right", va="center", fontsize=7)


def _heat(axes: Axes, panel: Mapping[str, Any], answers: Answers, over: Range, look: Look) -> None:
    """Draw one cell per bucket and time, with the bucket's own count: Prometheus counts all smaller buckets too."""
    unit = panel["fieldConfig"]["defaults"]["unit"]
    buckets = sorted(((float(s.labels["le"]), s) for _, series in answers for s in series), key=lambda pair: pair[0])
    times = sorted({at for _, s in buckets for at in s.times})
    counts: list[list[float]] = []
    below = [0.0] * len(times)
    for _, each in buckets:
        at = dict(zip(each.times, each.values, strict=True))
        upto = [at.get(t, 0.0) for t in times]
        counts.append([max(0.0, here - less) for here, less in zip(upto, below, strict=True)])
        below = upto
    if counts and times:
        cells = [[count if count > 1e-9 else math.nan for count in row] for row in counts]
        edges = [*_dates(times), _dates([times[-1] + over.step_s])[0]]
        axes.pcolormesh(edges, range(len(cells) + 1), cells, cmap=look.heat, rasterized=True)
    axes.set_yticks([i + 0.5 for i in range(0, len(buckets), 2)], [text_of(le, unit) for le, _ in buckets[::2]])
    _time_axis(axes, over)
    _plain(axes, look)


def _timeline(axes: Axes, panel: Mapping[str, Any], answers: Answers, over: Range, look: Look) -> None:
    named = _named(panel, answers)
    defaults = panel["fieldConfig"]["defaults"]
    for place, (_, each, _) in enumerate(named):
        for at, value in zip(_dates(each.times), each.values, strict=True):
            width = over.step_s / 86400
            axes.barh(place, width, left=at, height=0.7, color=_step_colour(defaults, value), linewidth=0)
    axes.set_yticks(range(len(named)), [name for name, _, _ in named])
    axes.set_ylim(max(len(named), 2) - 0.4, -0.6)
    _time_axis(axes, over)
    _plain(axes, look)
    options = defaults["mappings"][0]["options"]
    marks = [Rectangle((0, 0), 1, 1, color=state["color"]) for state in options.values()]
    names = [state["text"] for state in options.values()]
    style = {"fontsize": 6.5, "frameon": False, "labelcolor": look.text, "handlelength": 0.9, "handleheight": 0.5}
    axes.legend(marks, names, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=3, borderaxespad=0.0, **style)


def _table(axes: Axes, panel: Mapping[str, Any], answers: Answers, over: Range, look: Look) -> None:
    steps = {each["id"]: each["options"] for each in panel["transformations"]}
    series = [each for _, found in answers for each in found]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    colours: list[list[str]] | None = None
    if "groupingToMatrix" in steps:
        row, column = steps["groupingToMatrix"]["rowField"], steps["groupingToMatrix"]["columnField"]
        at = {(s.labels.get(row, ""), s.labels.get(column, "")): s.values[-1] for s in series}
        heads = list(dict.fromkeys(s.labels.get(column, "") for s in series))
        rows = sorted({name for name, _ in at}, key=lambda name: (len(name), name))
        cells = [[name, *(text_of(at.get((name, head), math.nan), unit) for head in heads)] for name in rows]
        defaults = panel["fieldConfig"]["defaults"]
        colours = [[look.panel, *(_step_colour(defaults, at.get((name, h), 0.0)) for h in heads)] for name in rows]
        heads = [row, *heads]
    else:
        place_of = steps["organize"]["indexByName"]
        order = sorted(place_of, key=place_of.__getitem__)
        labels = [name for name in order if name != "Value" and any(s.labels.get(name) for s in series)]
        heads = [*labels, steps["organize"]["renameByName"]["Value"]]
        cells = [[*(s.labels.get(name, "") for name in labels), _cell(s.values[-1], unit, over)] for s in series]
    _plain(axes, look, bare=True)
    _cells(axes, heads, cells, colours, look)


def _cell(value: float, unit: str, over: Range) -> str:
    if unit != "dateTimeFromNow":
        return text_of(value, unit)
    ago = over.end - value / 1000
    return f"{_seconds(ago)} ago" if ago >= 1 else "now"


def _cells(
    axes: Axes, heads: Sequence[str], cells: Sequence[Sequence[str]], colours: list[list[str]] | None, look: Look
) -> None:
    rows = max(len(cells), 4) + 1
    axes.set_xlim(0, len(heads))
    axes.set_ylim(rows, 0)
    widest = [max(len(line[place]) for line in (heads, *cells)) + 2 for place in range(len(heads))]
    edges = [sum(widest[:place]) / sum(widest) * len(heads) for place in range(len(heads) + 1)]
    for number, line in enumerate((heads, *cells)):
        for place, text in enumerate(line):
            colour = look.text
            if colours is not None and number and place:
                size = edges[place + 1] - edges[place]
                axes.add_patch(
                    Rectangle((edges[place], number + 0.05), size * 0.97, 0.9, color=colours[number - 1][place])
                )
                colour = "#111217"
            weight = "normal" if number else "bold"
            shown = textwrap.shorten(text, 30, placeholder="…")
            axes.text(edges[place] + 0.04, number + 0.5, shown, color=colour, fontsize=7, va="center", weight=weight)


def _step_colour(defaults: Mapping[str, Any], value: float) -> str:
    colour = "#73BF69"
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return str(colour)


def _plain(axes: Axes, look: Look, *, bare: bool = False) -> None:
    """Remove the frame and make the labels small; `bare` removes the axes too."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(colors=look.text, labelsize=6.5, length=0)
    if bare:
        axes.set_xticks([])
        axes.set_yticks([])


def _time_axis(axes: Axes, over: Range) -> None:
    """Label the time axis with the range of the dashboard in UTC, with seconds if it is short."""
    axes.set_xlim(*_dates((over.start, over.end)))
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=3, maxticks=5))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M" if over.end - over.start > 600 else "%H:%M:%S"))


def _dates(times: Sequence[float]) -> list[float]:
    return [float(date2num(datetime.datetime.fromtimestamp(at, datetime.UTC))) for at in times]


_KINDS: Final[dict[str, Callable[[Axes, Mapping[str, Any], Answers, Range, Look], None]]] = {
    "timeseries": _lines,
    "stat": _tile,
    "bargauge": _bars,
    "heatmap": _heat,
    "state-timeline": _timeline,
    "table": _table,
}
_MARGINS: Final = {
    "timeseries": (0.6, 0.5, 0.12, 0.28),
    "heatmap": (0.6, 0.25, 0.12, 0.28),
    "state-timeline": (0.75, 0.5, 0.12, 0.28),
    "stat": (0.06, 0.06, 0.06, 0.25),
}
"""Inches to the left, below, to the right and above what is drawn."""
