"""A run's report, as a table or as `--json`."""

from itertools import groupby

from rich.table import Table
from rich.text import Text

from i2v.advised_commands import command
from i2v.cli.output.console import print_json, stderr, stdout
from i2v.errors import NoImages
from i2v.reports.run_report import ItemReport, Outcome, Report
from i2v.settings import Settings

STYLES = {
    Outcome.FAILED: "red",
    Outcome.UNKNOWN: "red",
    Outcome.NOT_TRIED: "yellow",
    Outcome.SUBMITTED: "yellow",
    Outcome.REFUSED: "magenta",
    Outcome.STORED: "green",
    Outcome.CACHED: "green",
    Outcome.PLANNED: "",
}
"""The colors of the outcomes, in the order of the table: what needs attention comes first."""
ORDER = tuple(STYLES)
MAX_ROWS = 20
"""Of each outcome."""
PROMPT_CHARS = 60


def print_report(report: Report, settings: Settings, *, as_json: bool) -> None:
    """Print the table and the summary, or the JSON object on stdout and the summary on stderr."""
    if as_json:
        print_json(report.for_json())
        for line in (*report.notes, report.summary):
            stderr().print(line, soft_wrap=True)
        return
    console = stdout()
    if report.items:
        console.print(_table(report, f"s3://{settings.bucket}/" if settings.bucket else ""))
    for outcome in ORDER:
        if (hidden := report.count(outcome) - MAX_ROWS) > 0:
            console.print(f"… and {hidden} more {outcome.text}: list all with --json, or with: {command('jobs')}")
    if report.others:
        console.print(f"not processed: {report.others}")
    for note in report.notes:
        console.print(note)
    console.print(report.summary, style="bold")


def no_valid_image(report: Report) -> NoImages | None:
    """Return the error of a run without a valid image, with the first reason; `None` if an image is valid."""
    if not report.nothing_valid:
        return None
    reasons = [item.reason for item in report.items if item.reason] or ["no images given"]
    more = f" ({len(reasons) - 1} more in the list)" if len(reasons) > 1 else ""
    return NoImages(f"No valid image, nothing was submitted: {reasons[0]}{more}")


def _table(report: Report, bucket: str) -> Table:
    caption = f"Paths are in {bucket}" if bucket else None
    table = Table(box=None, header_style="bold", pad_edge=False, caption=caption, caption_justify="left")
    table.add_column("outcome", no_wrap=True)
    table.add_column("image, prompt (source), video or reason", overflow="fold")
    for name in ("seconds", "cost"):
        table.add_column(name, justify="right")
    items = sorted(report.items, key=lambda item: ORDER.index(item.outcome))
    for outcome, group in groupby(items, key=lambda item: item.outcome):
        for item in list(group)[:MAX_ROWS]:
            table.add_row(
                Text(outcome.text, style=STYLES[outcome]),
                _image_and_result(item, bucket),
                f"{item.seconds:.0f}" if item.seconds is not None else "",
                str(item.charges) if item.charges else "",
            )
    return table


def _image_and_result(item: ItemReport, bucket: str) -> Text:
    """Return lines: a long reason needs the width of the table."""
    prompt = item.shown_prompt(PROMPT_CHARS)
    job = f"job {item.job[:12]}, task {item.task_id}" if item.outcome is Outcome.SUBMITTED and item.job else None
    results = [f"\n{line.removeprefix(bucket)}" for line in (item.video, job or item.reason) if line]
    return Text.assemble(item.image.removeprefix(bucket), (f"\n{prompt}" if prompt else "", "dim"), *results)
