"""What commands print: report and job tables, errors and progress. No server."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from i2v.cli.output.job_table import END_WORDS, age, print_job
from i2v.cli.output.progress import Progress
from i2v.cli.output.report_table import MAX_ROWS, no_valid_image, print_report
from i2v.ledger.attempt import AttemptEnd, EndKind
from i2v.ledger.job import JobState
from i2v.pipeline.events import ImageDone, ImagesCounted, StepStarted
from i2v.reports.advice import Situation, about
from i2v.reports.run_report import ItemReport, Outcome, Report
from i2v.settings import Settings
from tests.support.job_records import CLAIMED, LATE_TASK, NOW, WHY


@pytest.mark.parametrize("situation", Situation)
def test_every_situation_has_advice(situation: Situation) -> None:
    """`i2v jobs show` and the pages say what to do about a job in any state, and about an image without one."""
    advice = about(situation, "a" * 64, again="run s3://b/a.jpg")
    assert advice.text.endswith(":")
    assert advice.command.startswith("i2v ")


def test_every_job_state_is_a_situation() -> None:
    """A new state of a job needs advice."""
    assert {state.value for state in JobState} <= {situation.value for situation in Situation}


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
    assert [line.split() for line in lines[1:6]] == [
        ["failed", "images/3.jpg"],
        ["no"],
        ["refused", "images/2.jpg"],
        ["too", "small"],
        ["stored", "images/1.jpg"],
    ]
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


def test_a_job_tells_its_attempts_as_a_story(capsys: pytest.CaptureFixture[str]) -> None:
    """`i2v jobs show` has a line per attempt: who claimed it at what price, its task, and what it waits for."""
    print_job(LATE_TASK)
    first, second = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines() if "attempt " in line]
    at = "2026-11-22 12:00:00 UTC"
    task = f"submitted {at} as task task_a (the answer came late)"
    assert first == f"claimed {at} at $0.192 by run run of A; {task}; rendering at the provider"
    assert second == f"claimed {at} at $0.192 by run run of B; waiting for the answer to its submit"


@pytest.mark.parametrize("kind", EndKind)
def test_the_story_of_an_attempt_has_its_end(kind: EndKind, capsys: pytest.CaptureFixture[str]) -> None:
    """Each way to end is in words, with its time and reason."""
    (attempt,) = CLAIMED.attempts
    end = AttemptEnd(kind=kind, at=NOW, revision=1, reason=WHY)
    print_job(CLAIMED.with_attempt(attempt.model_copy(update={"end": end})))
    assert f"{END_WORDS[kind]} 2026-11-22 12:00:00 UTC: because" in capsys.readouterr().out
