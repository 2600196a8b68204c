"""The page of the spend report, as markdown: what was charged, what is at risk and what was saved. Pure.

The page has a maximum size, however large the ledger. Without a link to the chart, a Mermaid chart takes its place.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter

from i2v.advised_commands import command
from i2v.money import ZERO
from i2v.reports.markdown import as_code, as_linked_image, as_table, as_text, as_usd
from i2v.reports.spend import GROUPINGS, MONTH_DAYS, AtRisk, Group, Groups, SpendReport, Sums, month_days, sum_groups

MAX_ROWS = 12
"""Modes, folders or labels with a row of their own."""
MAX_LIMITS = 20
CHARS = 80
DAY: Callable[[Group], str] = attrgetter("day")
CHART_PIXELS = 720
CHARGED = "Charged or possibly charged"
COLUMNS = ("Attempts", CHARGED, "At risk", "Saved")
AT_RISK = "Charged or possibly charged, without a video. Unknown jobs need a decision; failed jobs have ended."


def spend_page(report: SpendReport, chart_url: str | None = None) -> str:
    """Return the page with a linked chart, or a Mermaid chart if `chart_url` is `None`."""
    parts = (
        _head(report),
        _limits(report),
        _chart(report, chart_url),
        _groups(report),
        _at_risk(report),
        _days(report),
    )
    return "\n".join(line for part in parts for line in part) + "\n"


def _head(report: SpendReport) -> Iterator[str]:
    yield f"## Spend as of {report.until:%Y-%m-%d %H:%M} UTC"
    *_, yesterday, today = month_days(report.until)
    by_day = _sum_by(report.month, DAY)
    hours = 24 * round((report.until - report.since).total_seconds() / 86_400)
    columns = {
        "Today": by_day[today],
        "Yesterday": by_day[yesterday],
        f"Last {hours} hours": report.totals,
        f"{MONTH_DAYS} days": sum_groups(report.month),
    }
    yield ""
    yield from as_table(["US dollars", *columns], [[name, *map(cell, columns.values())] for name, cell in _ROWS])
    yield from ("", _balance(report))


_ROWS: tuple[tuple[str, Callable[[Sums], str]], ...] = (
    (f"**{CHARGED}**", lambda sums: f"**{as_usd(sums.total_usd)}**"),
    ("Stored as videos", lambda sums: as_usd(sums.stored_usd)),
    ("Open: no video yet", lambda sums: as_usd(sums.open_usd)),
    ("At risk: no video", lambda sums: as_usd(sums.at_risk_usd)),
    ("Of that, possibly charged: the answer was lost", lambda sums: as_usd(sums.possibly_charged_usd)),
    ("Attempts", lambda sums: f"{sums.attempts:,}"),
    ("**Saved**: attached or cached, not charged again", lambda sums: f"**{as_usd(sums.saved_usd)}**"),
    ("Images reused", lambda sums: f"{sums.saved_images:,}"),
)


def _limits(report: SpendReport) -> Iterator[str]:
    if not report.limits:
        return
    yield from ("", "### Limits", "")
    shown = report.limits[:MAX_LIMITS]
    amounts = [map(as_usd, (usage.spent_usd, usage.limit.usd, usage.left_usd)) for usage in shown]
    cells = [[as_text(one.limit.name, CHARS), *usd, one.resets] for one, usd in zip(shown, amounts, strict=True)]
    yield from as_table(("Limit", "Spent", "Of", "Left", "Resets (UTC)"), cells)
    if (more := len(report.limits) - MAX_LIMITS) > 0:
        yield from ("", f"… and {more:,} more: {as_code(command('limits'))}")


def _balance(report: SpendReport) -> str:
    if report.balance_usd is None:
        return "The provider did not return its balance."
    text = f"The provider's balance is {as_usd(report.balance_usd)}."
    if report.balance_fell_usd is None:
        return text
    ours = report.ledger_since_last_usd or ZERO
    text += f" Since the last report it fell by {as_usd(report.balance_fell_usd)}; the ledger has {as_usd(ours)}"
    return f"{text}. **They differ.**" if report.differs else f"{text}. They agree."


def _chart(report: SpendReport, chart_url: str | None) -> Iterator[str]:
    if chart_url:
        yield from ("", as_linked_image(chart_url, chart_url, CHART_PIXELS))
    elif sum_groups(report.month).total_usd:
        yield from ("", *_mermaid_chart(report))


def _mermaid_chart(report: SpendReport) -> Iterator[str]:
    days, by_day = month_days(report.until), _sum_by(report.month, DAY)
    yield "```mermaid"
    yield "xychart-beta"
    yield f'    title "US dollars per day, {CHARGED.lower()}"'
    yield f'    x-axis "UTC days from {days[0]} to {days[-1]}" [{", ".join(day[8:] for day in days)}]'
    yield f"    bar [{', '.join(f'{by_day[day].total_usd:.2f}' for day in days)}]"
    yield "```"


def _groups(report: SpendReport) -> Iterator[str]:
    for grouping, name_of in GROUPINGS.items():
        if found := _sum_by(report.month, name_of):
            yield from ("", f"### By {grouping}, {MONTH_DAYS} days", "")
            yield from as_table((grouping.capitalize(), *COLUMNS), _group_rows(found))


def _group_rows(found: Mapping[str, Sums]) -> Iterator[Sequence[str]]:
    """Yield the most expensive groups, and one row for the others."""
    rows = sorted(found.items(), key=lambda item: (-item[1].total_usd, -item[1].saved_usd, item[0]))
    for name, sums in rows[:MAX_ROWS]:
        yield [as_text(name, CHARS, keep_end=True), *_cells(sums)]
    if rest := rows[MAX_ROWS:]:
        yield [f"{len(rest):,} others", *_cells(sum((sums for _, sums in rest), Sums()))]


def _sum_by(groups: Groups, name_of: Callable[[Group], str]) -> defaultdict[str, Sums]:
    """Return the sum of each set of groups with the same name."""
    found: defaultdict[str, Sums] = defaultdict(Sums)
    for group, sums in groups:
        found[name_of(group)] += sums
    return found


def _cells(sums: Sums) -> list[str]:
    return [f"{sums.attempts:,}", as_usd(sums.total_usd), as_usd(sums.at_risk_usd), as_usd(sums.saved_usd)]


def _at_risk(report: SpendReport) -> Iterator[str]:
    if not report.at_risk:
        return
    yield from ("", "### At risk, newest first", "", AT_RISK, "")
    head = ("Since (UTC)", "Image", "Job state", "US dollars", "Details")
    yield from as_table(head, map(_risk_row, report.at_risk))


def _risk_row(risk: AtRisk) -> list[str]:
    since, image = f"{risk.at:%Y-%m-%d %H:%M}", as_text(risk.image, CHARS, keep_end=True)
    return [since, image, risk.state, as_usd(risk.usd), as_code(command("jobs", "show", risk.job[:12]))]


def _days(report: SpendReport) -> Iterator[str]:
    if by_day := _sum_by(report.month, DAY):
        yield from ("", "### By day", "")
        rows = [[day, *_cells(by_day[day])] for day in sorted(by_day, reverse=True)]
        yield from as_table(("UTC day", *COLUMNS), rows)
