"""The chart of the spend report: `draw_spend` draws a month's spend by day as a PNG. Pure.

matplotlib takes a second to import, so it is imported only when a chart is drawn; the Agg canvas needs no display.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from i2v.reports.spend import Group, Groups, Sums

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#3652d9", "#e08a2e", "#2f9e6e", "#b8439b", "#5fb3d4")
OTHERS_COLOUR = "#a9adb5"
STORED, OPEN, AT_RISK, SAVED = "#2f9e6e", "#5fb3d4", "#c93a2f", "#8a8f99"
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
    _draw(charts[0], "by result", days, _by_result(groups, days), (STORED, OPEN, AT_RISK))
    _draw_saved(charts[0], groups, days)
    kinds: tuple[tuple[Any, str, Callable[[Group], str]], ...] = (
        (charts[1], "by mode", lambda group: group.mode),
        (charts[2], "by folder", lambda group: group.folder or "(top)"),
        (charts[3], "by label", lambda group: group.label or "(none)"),
    )
    for chart, title, kind in kinds:
        _draw(chart, title, days, _largest(_by(groups, days, kind)), COLOURS)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _by_result(groups: Groups, days: Sequence[str]) -> Series:
    results = {
        "stored": _by_day(groups, lambda sums: sums.stored_usd),
        "in progress": _by_day(groups, lambda sums: sums.open_usd),
        "at risk": _by_day(groups, lambda sums: sums.at_risk_usd),
    }
    return {name: [float(by_day[day]) for day in days] for name, by_day in results.items()}


def _by_day(groups: Groups, amount: Callable[[Sums], Decimal]) -> Mapping[str, Decimal]:
    by_day: defaultdict[str, Decimal] = defaultdict(Decimal)
    for group, sums in groups:
        by_day[group.day] += amount(sums)
    return by_day


def _by(groups: Groups, days: Sequence[str], kind: Callable[[Group], str]) -> Series:
    index = {day: number for number, day in enumerate(days)}
    series: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * len(days))
    for group, sums in groups:
        if sums.total_usd and group.day in index:
            series[kind(group)][index[group.day]] += float(sums.total_usd)
    return series


def _largest(series: Series) -> Series:
    """Return the largest series, and the sum of the others."""
    names = sorted(series, key=lambda name: (-sum(series[name]), name))
    shown = names[: len(COLOURS)]
    rest = [series[name] for name in names[len(COLOURS) :]]
    others = {f"{len(rest)} others": [sum(of_day) for of_day in zip(*rest, strict=True)]} if rest else {}
    return {name: series[name] for name in shown} | others


def _draw(chart: Axes, title: str, days: Sequence[str], series: Series, colours: Sequence[str]) -> None:
    bottom = [0.0] * len(days)
    bars = []
    for number, values in enumerate(series.values()):
        colour = colours[number] if number < len(colours) else OTHERS_COLOUR
        bars.append(chart.bar(range(len(days)), values, bottom=bottom, color=colour, width=0.8))
        bottom = [low + high for low, high in zip(bottom, values, strict=True)]
    chart.set_title(f"US dollars per day, {title}", loc="left", fontsize=11, pad=22)
    every = max(1, len(days) // 10)
    chart.set_xticks(range(0, len(days), every), [day[5:] for day in days[::every]])
    chart.spines[["top", "right"]].set_visible(False)
    chart.set_ylim(0, max(1.15 * max(bottom, default=0), 0.01))
    _add_legend(chart, bars, series)


def _draw_saved(chart: Axes, groups: Groups, days: Sequence[str]) -> None:
    by_day = _by_day(groups, lambda sums: sums.saved_usd)
    saved = [float(by_day[day]) for day in days]
    if not any(saved):
        return
    (line,) = chart.plot(range(len(days)), saved, color=SAVED, marker="o", markersize=3, linewidth=1, linestyle=":")
    chart.set_ylim(0, max(chart.get_ylim()[1], 1.15 * max(saved)))
    handles = [*chart.containers, line]
    _add_legend(chart, handles, ["stored", "in progress", "at risk", "saved"])


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
