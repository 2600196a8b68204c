"""The spend report as one page of markdown: what was paid, what is at risk, and what did not have to be paid. Pure.

`spend_page` is bounded in size, however large the ledger. A picture is linked by whoever can sign for it; where there
is none, a chart in text says the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal

from i2v.money import ZERO, money_text
from i2v.reports.markdown import as_code, as_linked_image, as_table, as_text
from i2v.reports.spend import AtRisk, Group, Groups, SpendReport, Sums, month_days, sum_groups

MAX_ROWS = 12
"""Modes, folders or labels that have a row of their own."""
CHARS = 80
PICTURE_PIXELS = 720
RISKS = "May have been billed without giving a video. An unknown one waits for you; a failed one is over."


def spend_page(report: SpendReport, picture: str | None = None) -> str:
    """The page; `picture` is where the picture of the month can be fetched."""
    parts = (_head(report), _chart(report, picture), _kinds(report), _at_risk(report), _days(report))
    return "\n".join(line for part in parts for line in part) + "\n"


def _head(report: SpendReport) -> Iterator[str]:
    yield f"## Spend, as of {report.until:%Y-%m-%d %H:%M} UTC"
    *_, yesterday, today = month_days(report.until)
    columns = {
        "today": _of_days(report, today),
        "yesterday": _of_days(report, yesterday),
        f"last {_hours(report)}": report.totals,
        f"{len(month_days(report.until))} days": sum_groups(report.month),
    }
    yield ""
    yield from as_table(["US dollars", *columns], [[name, *map(told, columns.values())] for name, told in _LINES])
    yield from ("", _balance(report))


_LINES: tuple[tuple[str, Callable[[Sums], str]], ...] = (
    ("**paid, or perhaps so**", lambda sums: f"**{_usd(sums.total_usd)}**"),
    ("stored as videos", lambda sums: _usd(sums.stored_usd)),
    ("under way", lambda sums: _usd(sums.open_usd)),
    ("at risk: no video came of it", lambda sums: _usd(sums.at_risk_usd)),
    ("attempts", lambda sums: f"{sums.attempts:,}"),
    ("**saved**: attached or cached, not paid again", lambda sums: f"**{_usd(sums.saved_usd)}**"),
    ("images that cost nothing so", lambda sums: f"{sums.saved_images:,}"),
)


def _of_days(report: SpendReport, *days: str) -> Sums:
    return sum_groups([each for each in report.month if each[0].day in days])


def _hours(report: SpendReport) -> str:
    days = round((report.until - report.since).total_seconds() / 86_400)
    return "24 hours" if days == 1 else f"{days} times 24 hours"


def _balance(report: SpendReport) -> str:
    if report.balance_usd is None:
        return "The provider did not tell its balance."
    told = f"The provider's balance is {_usd(report.balance_usd)}."
    if report.balance_fell_usd is None:
        return told
    ours = report.ledger_since_last_usd or ZERO
    told += f" Since the last report it fell by {_usd(report.balance_fell_usd)}, and the ledger says {_usd(ours)}"
    return f"{told}: **these differ.**" if report.differs else f"{told}: they agree."


def _chart(report: SpendReport, picture: str | None) -> Iterator[str]:
    if picture:
        yield from ("", as_linked_image(picture, picture, PICTURE_PIXELS))
    elif sum_groups(report.month).total_usd:
        yield from ("", *_text_chart(report))


def _text_chart(report: SpendReport) -> Iterator[str]:
    days = month_days(report.until)
    amounts = [_of_days(report, day).total_usd for day in days]
    yield "```mermaid"
    yield "xychart-beta"
    yield '    title "US dollars a day, paid or perhaps so"'
    yield f"    x-axis [{', '.join(day[8:] for day in days)}]"
    yield f"    bar [{', '.join(f'{amount:.2f}' for amount in amounts)}]"
    yield "```"


def _kinds(report: SpendReport) -> Iterator[str]:
    kinds: tuple[tuple[str, Callable[[Group], str]], ...] = (
        ("mode", lambda group: group.mode),
        ("folder", lambda group: group.folder),
        ("label", lambda group: group.label),
    )
    for name, kind in kinds:
        rows = _by(report.month, kind)
        if rows:
            yield from ("", f"### By {name}, {len(month_days(report.until))} days", "")
            yield from as_table((name, "attempts", "paid, or perhaps so", "at risk", "saved"), _shown(rows))


def _by(groups: Groups, kind: Callable[[Group], str]) -> list[tuple[str, Sums]]:
    """Dearest first."""
    found: defaultdict[str, Sums] = defaultdict(Sums)
    for group, sums in groups:
        found[kind(group)] += sums
    return sorted(found.items(), key=lambda item: (-item[1].total_usd, -item[1].saved_usd, item[0]))


def _shown(rows: Sequence[tuple[str, Sums]]) -> Iterator[Sequence[str]]:
    for name, sums in rows[:MAX_ROWS]:
        yield [as_text(name, CHARS, keep_end=True) or "(none)", *_cells(sums)]
    if rest := rows[MAX_ROWS:]:
        yield [f"{len(rest):,} others", *_cells(sum((sums for _, sums in rest), Sums()))]


def _cells(sums: Sums) -> list[str]:
    return [f"{sums.attempts:,}", _usd(sums.total_usd), _usd(sums.at_risk_usd), _usd(sums.saved_usd)]


def _at_risk(report: SpendReport) -> Iterator[str]:
    if not report.at_risk:
        return
    yield from ("", "### At risk, newest first", "", RISKS, "")
    head = ("since, UTC", "image", "its job is now", "US dollars", "what to do is told by")
    yield from as_table(head, map(_risk_row, report.at_risk))


def _risk_row(risk: AtRisk) -> list[str]:
    since, image = f"{risk.at:%Y-%m-%d %H:%M}", as_text(risk.image, CHARS, keep_end=True)
    return [since, image, risk.state, _usd(risk.usd), as_code(f"i2v jobs show {risk.job[:12]}")]


def _days(report: SpendReport) -> Iterator[str]:
    days = [(day, sums) for day, sums in _by(report.month, lambda group: group.day)]
    if days:
        yield from ("", "### By day", "")
        yield from as_table(
            ("UTC day", "attempts", "paid, or perhaps so", "at risk", "saved"),
            [[day, *_cells(sums)] for day, sums in sorted(days, reverse=True)],
        )


def _usd(amount: Decimal) -> str:
    sign = "-" if amount < 0 else ""
    return as_text(f"{sign}${money_text(abs(amount))}", CHARS)
