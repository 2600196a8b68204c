"""The chart of the spend report: `draw_spend` draws a month's spend by day as a PNG. Pure.

matplotlib takes a second to import, so it is imported only when a chart is drawn; the Agg canvas needs no display.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from i2v.reports.spend import GROUPINGS, Group, Groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#3652d9", "#e08a2e", "#2f9e6e", "#b8439b", "#5fb3d4")
OTHERS_COLOR = "#a9adb5"
STORED, OPEN, AT_RISK, SAVED = "#2f9e6e", "#5fb3d4", "#c93a2f", "#8a8f99"
RESULTS = {"stored": "stored_usd", "open": "open_usd", "at risk": "at_risk_usd"}
NAME_CHARS = 20
INCHES, DOTS_PER_INCH = (8.0, 11.0), 110
"""One chart below the other, at the width at which the Prefect UI shows it."""
Series = dict[str, list[float]]
"""US dollars of each day, by name."""


def draw_spend(groups: Groups, days: Sequence[str]) -> bytes:
    """Return a PNG with four charts of these days: by result, mode, folder and label."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - see above
    from matplotlib.figure import Figure  # noqa: PLC0415 - see above

    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    charts = figure.subplots(4, 1, sharex=True)
    by_result = {name: _daily(groups, days, field) for name, field in RESULTS.items()}
    _draw(charts[0], "by result", days, by_result, (STORED, OPEN, AT_RISK))
    _draw_saved(charts[0], groups, days)
    for chart, (name, group_name) in zip(charts[1:], GROUPINGS.items(), strict=True):
        _draw(chart, f"by {name}", days, _largest(_by_name(groups, days, group_name)), COLORS)
    charts[-1].set_xlabel(f"UTC days from {days[0]} to {days[-1]}", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _by_name(groups: Groups, days: Sequence[str], group_name: Callable[[Group], str]) -> Series:
    members: defaultdict[str, Groups] = defaultdict(list)
    for group, sums in groups:
        members[group_name(group)].append((group, sums))
    series = {name: _daily(found, days, "total_usd") for name, found in members.items()}
    return {name: values for name, values in series.items() if any(values)}


def _daily(groups: Groups, days: Sequence[str], field: str) -> list[float]:
    """Return the sum of each day; `field` is a field of `Sums`."""
    by_day: defaultdict[str, Decimal] = defaultdict(Decimal)
    for group, sums in groups:
        by_day[group.day] += getattr(sums, field)
    return [float(by_day[day]) for day in days]


def _largest(series: Series) -> Series:
    """Return the largest series, and the sum of the others."""
    names = sorted(series, key=lambda name: (-sum(series[name]), name))
    shown = names[: len(COLORS)]
    rest = [series[name] for name in names[len(COLORS) :]]
    others = {f"{len(rest)} others": [sum(of_day) for of_day in zip(*rest, strict=True)]} if rest else {}
    return {name: series[name] for name in shown} | others


def _draw(chart: Axes, title: str, days: Sequence[str], series: Series, colors: Sequence[str]) -> None:
    bottom = [0.0] * len(days)
    bars = []
    for number, values in enumerate(series.values()):
        color = colors[number] if number < len(colors) else OTHERS_COLOR
        bars.append(chart.bar(range(len(days)), values, bottom=bottom, color=color, width=0.8))
        bottom = [low + high for low, high in zip(bottom, values, strict=True)]
    chart.set_title(f"US dollars per day, {title}", loc="left", fontsize=11, pad=22)
    every = max(1, len(days) // 10)
    chart.set_xticks(range(0, len(days), every), [day[5:] for day in days[::every]])
    chart.tick_params(labelbottom=True)  # each chart has dates, although they share the axis
    chart.spines[["top", "right"]].set_visible(False)
    chart.set_ylim(0, max(1.15 * max(bottom, default=0), 0.01))
    _add_legend(chart, bars, series)


def _draw_saved(chart: Axes, groups: Groups, days: Sequence[str]) -> None:
    saved = _daily(groups, days, "saved_usd")
    if not any(saved):
        return
    points = [value or math.nan for value in saved]  # no marker on a day without savings
    (line,) = chart.plot(range(len(days)), points, color=SAVED, marker="o", markersize=3, linewidth=1, linestyle=":")
    chart.set_ylim(0, max(chart.get_ylim()[1], 1.15 * max(saved)))
    handles = [*chart.containers, line]
    _add_legend(chart, handles, [*RESULTS, "saved"])


def _add_legend(chart: Axes, handles: Sequence[Any], names: Iterable[str]) -> None:
    """Add a legend in which names stay texts: matplotlib would parse `$` and hide names that start with `_`."""
    if not handles:
        return
    labels = [f" {_printable(name)}" for name in names]
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 0.99), "ncols": len(labels)}
    legend = chart.legend(handles, labels, fontsize=8, frameon=False, borderaxespad=0, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _printable(name: str) -> str:
    from matplotlib.font_manager import findfont, get_font  # noqa: PLC0415 - see above

    glyphs = get_font(findfont("DejaVu Sans")).get_charmap()
    cut = name if len(name) <= NAME_CHARS else f"…{name[1 - NAME_CHARS :]}"
    return "".join(char if ord(char) in glyphs else "\ufffd" for char in cut)
