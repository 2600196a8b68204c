"""The page of the spend report, as markdown: what was charged, what is at risk and what was saved. Pure.

The page has a maximum size, however large the ledger. Without a link to the chart, a Mermaid chart takes its place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from operator import itemgetter

from i2v.money import ZERO, money_text
from i2v.reports.markdown import as_code, as_linked_image, as_table, as_text
from i2v.reports.spend import GROUPINGS, AtRisk, Group, Groups, SpendReport, Sums, month_days, sum_groups

MAX_ROWS = 12
"""Modes, folders or labels with a row of their own."""
CHARS = 80
CHART_PIXELS = 720
CHARGED = "Charged or possibly charged"
COLUMNS = ("Attempts", CHARGED, "At risk", "Saved")
AT_RISK = "Possibly billed without producing a video. Unknown jobs need a decision; failed jobs have ended."


def spend_page(report: SpendReport, chart_url: str | None = None) -> str:
    """Return the page with a linked chart, or a Mermaid chart if `chart_url` is `None`."""
    parts = (_head(report), _chart(report, chart_url), _groups(report), _at_risk(report), _days(report))
    return "\n".join(line for part in parts for line in part) + "\n"


def _head(report: SpendReport) -> Iterator[str]:
    yield f"## Spend as of {report.until:%Y-%m-%d %H:%M} UTC"
    *_, yesterday, today = month_days(report.until)
    columns = {
        "Today": _sum_days(report, today),
        "Yesterday": _sum_days(report, yesterday),
        f"Last {_hours(report)}": report.totals,
        f"{len(month_days(report.until))} days": sum_groups(report.month),
    }
    yield ""
    yield from as_table(["US dollars", *columns], [[name, *map(cell, columns.values())] for name, cell in _ROWS])
    yield from ("", _balance(report))


_ROWS: tuple[tuple[str, Callable[[Sums], str]], ...] = (
    (f"**{CHARGED}**", lambda sums: f"**{_usd(sums.total_usd)}**"),
    ("Stored as videos", lambda sums: _usd(sums.stored_usd)),
    ("In progress", lambda sums: _usd(sums.open_usd)),
    ("At risk: no video", lambda sums: _usd(sums.at_risk_usd)),
    ("Attempts", lambda sums: f"{sums.attempts:,}"),
    ("**Saved**: attached or cached, not charged again", lambda sums: f"**{_usd(sums.saved_usd)}**"),
    ("Images reused", lambda sums: f"{sums.saved_images:,}"),
)


def _sum_days(report: SpendReport, *days: str) -> Sums:
    return sum_groups([each for each in report.month if each[0].day in days])


def _hours(report: SpendReport) -> str:
    days = round((report.until - report.since).total_seconds() / 86_400)
    return "24 hours" if days == 1 else f"{24 * days} hours"


def _balance(report: SpendReport) -> str:
    if report.balance_usd is None:
        return "The provider did not return its balance."
    text = f"The provider's balance is {_usd(report.balance_usd)}."
    if report.balance_fell_usd is None:
        return text
    ours = report.ledger_since_last_usd or ZERO
    text += f" Since the last report it fell by {_usd(report.balance_fell_usd)}; the ledger has {_usd(ours)}"
    return f"{text}. **They differ.**" if report.differs else f"{text}. They agree."


def _chart(report: SpendReport, chart_url: str | None) -> Iterator[str]:
    if chart_url:
        yield from ("", as_linked_image(chart_url, chart_url, CHART_PIXELS))
    elif sum_groups(report.month).total_usd:
        yield from ("", *_mermaid_chart(report))


def _mermaid_chart(report: SpendReport) -> Iterator[str]:
    days = month_days(report.until)
    amounts = [_sum_days(report, day).total_usd for day in days]
    yield "```mermaid"
    yield "xychart-beta"
    yield f'    title "US dollars per day, {CHARGED.lower()}"'
    yield f"    x-axis [{', '.join(day[8:] for day in days)}]"
    yield f"    bar [{', '.join(f'{amount:.2f}' for amount in amounts)}]"
    yield "```"


def _groups(report: SpendReport) -> Iterator[str]:
    for name, group_name in GROUPINGS.items():
        if rows := _sum_by(report.month, group_name):
            yield from ("", f"### By {name}, {len(month_days(report.until))} days", "")
            yield from as_table((name.capitalize(), *COLUMNS), _group_rows(rows))


def _sum_by(groups: Groups, group_name: Callable[[Group], str]) -> list[tuple[str, Sums]]:
    """Return the sums by name, most expensive first."""
    found: defaultdict[str, Sums] = defaultdict(Sums)
    for group, sums in groups:
        found[group_name(group)] += sums
    return sorted(found.items(), key=lambda item: (-item[1].total_usd, -item[1].saved_usd, item[0]))


def _group_rows(rows: Sequence[tuple[str, Sums]]) -> Iterator[Sequence[str]]:
    for name, sums in rows[:MAX_ROWS]:
        yield [as_text(name, CHARS, keep_end=True), *_cells(sums)]
    if rest := rows[MAX_ROWS:]:
        yield [f"{len(rest):,} others", *_cells(sum((sums for _, sums in rest), Sums()))]


def _cells(sums: Sums) -> list[str]:
    return [f"{sums.attempts:,}", _usd(sums.total_usd), _usd(sums.at_risk_usd), _usd(sums.saved_usd)]


def _at_risk(report: SpendReport) -> Iterator[str]:
    if not report.at_risk:
        return
    yield from ("", "### At risk, newest first", "", AT_RISK, "")
    head = ("Since (UTC)", "Image", "Job state", "US dollars", "Details")
    yield from as_table(head, map(_risk_row, report.at_risk))


def _risk_row(risk: AtRisk) -> list[str]:
    since, image = f"{risk.at:%Y-%m-%d %H:%M}", as_text(risk.image, CHARS, keep_end=True)
    return [since, image, risk.state, _usd(risk.usd), as_code(f"i2v jobs show {risk.job[:12]}")]


def _days(report: SpendReport) -> Iterator[str]:
    if days := _sum_by(report.month, lambda group: group.day):
        yield from ("", "### By day", "")
        rows = [[day, *_cells(sums)] for day, sums in sorted(days, key=itemgetter(0), reverse=True)]
        yield from as_table(("UTC day", *COLUMNS), rows)


def _usd(amount: Decimal) -> str:
    sign = "-" if amount < 0 else ""
    return as_text(f"{sign}${money_text(abs(amount))}", CHARS)
