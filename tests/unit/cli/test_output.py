"""What commands print: report and job tables, errors and progress. No server."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from i2v.cli.output.job_table import age
from i2v.cli.output.report_table import MAX_ROWS, no_valid_image, print_report
from i2v.cli.progress import Progress
from i2v.ledger.job import JobState
from i2v.pipeline.events import ImageDone, ImagesCounted, StepStarted
from i2v.reports.advice import advise_job
from i2v.reports.run_report import ItemReport, Outcome, Report
from i2v.settings import Settings


@pytest.mark.parametrize("state", JobState)
def test_every_job_state_has_advice(state: JobState) -> None:
    """`i2v jobs show` prints a next step for a job in any state."""
    assert advise_job(state, "a" * 64).text


@pytest.mark.parametrize(("seconds", "words"), [(5, "5 s"), (130, "2 min"), (7_300, "2 h"), (200_000, "2 d")])
def test_an_age_is_in_its_largest_unit(seconds: int, words: str) -> None:
    """An age is `2 h`, not 7300 seconds."""
    assert words == age(datetime.now(UTC) - timedelta(seconds=seconds))


def _item(number: int, outcome: Outcome, **more: object) -> ItemReport:
    return ItemReport.model_validate({"image": f"s3://my-bucket/images/{number}.jpg", "outcome": outcome, **more})


def test_the_table_begins_with_what_needs_attention(capsys: pytest.CaptureFixture[str]) -> None:
    """A failed image is the first row, a refused one the second."""
    items = (
        _item(1, Outcome.STORED),
        _item(2, Outcome.REFUSED, reason="too small"),
        _item(3, Outcome.FAILED, reason="no"),
    )
    print_report(Report(items=items), Settings(I2V_BUCKET="my-bucket"), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["images/3.jpg", "images/2.jpg", "images/1.jpg"]
    assert lines[-1] == "1 stored · 1 refused · 1 failed · $0.00"


def test_a_long_table_is_truncated(capsys: pytest.CaptureFixture[str]) -> None:
    """A table of a thousand stored images is cut to 20 rows, and says how many it leaves out."""
    items = tuple(_item(number, Outcome.STORED) for number in range(1000))
    print_report(Report(items=items), Settings(I2V_BUCKET="my-bucket"), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= MAX_ROWS + 4
    assert f"{1000 - MAX_ROWS} more stored" in lines[-2]


def test_a_run_without_a_valid_image_has_exit_code_3() -> None:
    """The error of a run without a valid image has exit code 3 and the reason of that image."""
    error = no_valid_image(Report(items=(_item(1, Outcome.REFUSED, reason="1.jpg is too small", valid=False),)))
    assert error is not None
    assert (error.exit_code, "1.jpg is too small" in error.message) == (3, True)


def test_one_valid_image_is_no_error() -> None:
    """One valid image among refused ones makes a run."""
    report = Report(items=(_item(1, Outcome.REFUSED, valid=False), _item(2, Outcome.STORED)))
    assert no_valid_image(report) is None


def test_progress_counts_jobs_by_step() -> None:
    """The bar shows how many images wait, are being rendered and have ended, each once."""
    progress = Progress(Console(file=io.StringIO()))
    progress.on_event(ImagesCounted(4))
    for step, job in (("rendering", "a"), ("rendering", "b"), ("rendering", "a"), ("storing", "b")):
        progress.on_event(StepStarted(step, job))
    progress.on_event(ImageDone(_item(1, Outcome.STORED, job="b")))
    assert progress.words == "2 waiting · 1 rendering · 1 stored"


def test_without_a_terminal_there_is_no_bar() -> None:
    """A log file gets plain lines without control characters."""
    stream = io.StringIO()
    with Progress(Console(file=stream)) as progress:
        progress.doing("uploading", 3)
        progress.on_event(ImagesCounted(3))
        progress.on_event(ImageDone(_item(1, Outcome.STORED)))
    assert stream.getvalue() == "uploading: 3 (0 s)\n"
