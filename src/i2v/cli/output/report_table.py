"""A report as a person reads it, a table, or as `--json`."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from i2v.cli.output.console import stderr, stdout
from i2v.errors import I2vError, NoImages
from i2v.money import money_text
from i2v.reports.run_report import ItemReport, Outcome, Report

if TYPE_CHECKING:
    from i2v.settings import Settings

ORDER = (
    Outcome.FAILED,
    Outcome.UNKNOWN,
    Outcome.NOT_TRIED,
    Outcome.SUBMITTED,
    Outcome.REFUSED,
    Outcome.STORED,
    Outcome.CACHED,
    Outcome.PLANNED,
)
"""What a person must look at comes first."""
STYLES = {Outcome.FAILED: "red", Outcome.UNKNOWN: "red", Outcome.NOT_TRIED: "yellow", Outcome.SUBMITTED: "yellow"}
STYLES |= {Outcome.REFUSED: "magenta", Outcome.STORED: "green", Outcome.CACHED: "green"}
MOST_ROWS = 20
"""Of each outcome."""


def tell(error: I2vError) -> None:
    """An error in plain words, and what to do about it, on stderr."""
    sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))


def print_json(value: object) -> None:
    """One JSON object on one line of stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_report(report: Report, settings: Settings, *, as_json: bool) -> None:
    """The table and the sentence, or the object of `--json` and then the sentence on stderr."""
    if as_json:
        print_json(report.for_json())
        stderr().print(report.summary, soft_wrap=True)
        return
    console = stdout()
    if report.items:
        console.print(_table(report, f"s3://{settings.bucket}/" if settings.bucket else ""))
    for outcome, left in _left_out(report).items():
        console.print(f"… and {left} more {outcome.text}: i2v jobs, or --json, lists them all")
    console.print(report.summary, style="bold")


def tell_nothing_valid(report: Report) -> int:
    """The exit code 3 and why, where no image is valid; else 0."""
    if not report.nothing_valid:
        return 0
    reasons = [item.reason for item in report.items if item.reason]
    more = f" ({len(reasons) - 1} more are told above)" if len(reasons) > 1 else ""
    tell(NoImages(f"No image is valid, so nothing was submitted: {reasons[0] if reasons else 'none was named'}{more}"))
    return NoImages.exit_code


def _table(report: Report, place: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, caption=f"in {place}" if place else None)
    table.caption_justify = "left"
    for name in ("image", "outcome", "video, or why not", "seconds", "cost"):
        table.add_column(name, justify="right" if name in {"seconds", "cost"} else "left", overflow="fold")
    for _, items in groupby(_sorted(report), key=lambda item: item.outcome):
        for item in list(items)[:MOST_ROWS]:
            table.add_row(*_row(item, place))
    return table


def _row(item: ItemReport, place: str) -> list[Text]:
    told = [part.removeprefix(place) for part in (item.video, item.reason) if part]
    if item.outcome is Outcome.SUBMITTED and item.job:
        told = [f"job {item.job[:12]}, task {item.task_id}"]
    cells = [
        item.image.removeprefix(place),
        item.outcome.text,
        "\n".join(told),
        f"{item.seconds:.0f}" if item.seconds is not None else "",
        f"${money_text(item.cost_usd)}" if item.cost_usd else "",
    ]
    return [Text(cell, style=STYLES.get(item.outcome, "") if number == 1 else "") for number, cell in enumerate(cells)]


def _sorted(report: Report) -> list[ItemReport]:
    return sorted(report.items, key=lambda item: ORDER.index(item.outcome))


def _left_out(report: Report) -> dict[Outcome, int]:
    return {outcome: report.count(outcome) - MOST_ROWS for outcome in ORDER if report.count(outcome) > MOST_ROWS}
