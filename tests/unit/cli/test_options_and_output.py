"""The command line's own words: what is typed, how it is read, and what is shown of a run, without any server."""

from __future__ import annotations

import io
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from i2v.cli import options
from i2v.cli.app import app
from i2v.cli.jobs import State, moment
from i2v.cli.options import dollars
from i2v.cli.output.job_table import age
from i2v.cli.output.report_table import MOST_ROWS, print_report, tell_nothing_valid
from i2v.cli.progress import Progress
from i2v.ledger.job import JobState
from i2v.reports.advice import advise_job
from i2v.reports.run_report import ItemReport, Outcome, Report
from i2v.request import Mode
from i2v.settings import Settings

HEAVY = {"prefect", "boto3", "botocore", "httpx", "av", "PIL", "pydantic"}
COMMANDS = ("run", "estimate", "jobs", "reconcile", "pause", "resume", "doctor")


def test_help_imports_nothing_heavy() -> None:
    """`i2v --help` answers at once, since what takes seconds is imported inside the commands."""
    code = "import sys; from i2v.cli.app import app; print(*{name.partition('.')[0] for name in sys.modules})"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()  # noqa: S603 - our own code
    assert "typer" in names
    assert set() == HEAVY & set(names)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_that_names_its_options(command: str) -> None:
    """Nobody has to read the source to learn what a command takes."""
    said = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert (said.exit_code, "--json" in said.output) == (0, True)


@pytest.mark.parametrize("words", [["run"], ["run", "x.jpg", "--duration", "7"], ["run", "x.jpg", "--max-spend", "-1"]])
def test_wrong_usage_exits_2(words: list[str]) -> None:
    """What cannot be meant is told before anything is looked at."""
    assert CliRunner().invoke(app, words).exit_code == 2


def test_the_choices_are_the_librarys() -> None:
    """The command line, which names them again for speed, offers exactly the library's modes and states."""
    assert [str(mode) for mode in Mode] == [str(mode) for mode in options.Mode]
    assert [str(state) for state in JobState] == [str(state) for state in State]


@pytest.mark.parametrize("state", JobState)
def test_every_state_has_advice(state: JobState) -> None:
    """`i2v jobs show` prints a next step for a job in any state."""
    assert advise_job(state, "a" * 64).text


@pytest.mark.parametrize(("text", "amount"), [("5", "5"), ("$0.50", "0.50"), (" 2 ", "2"), ("0", "0")])
def test_dollars_are_read_exactly(text: str, amount: str) -> None:
    """An amount is the decimal that was typed."""
    assert Decimal(amount) == dollars(text)


@pytest.mark.parametrize("text", ["", "five", "-1", "nan", "inf", "1e999999"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    """A limit that cannot be meant never becomes no limit."""
    with pytest.raises(typer.BadParameter, match="US dollars"):
        dollars(text)


@pytest.mark.parametrize(("text", "before"), [("2d", 172_800), ("12h", 43_200), ("30m", 1_800), ("1w", 604_800)])
def test_since_takes_a_span(text: str, before: int) -> None:
    """`2d` is two days ago."""
    assert abs((datetime.now(UTC) - moment(text)).total_seconds() - before) < 5


def test_since_takes_a_date_in_utc() -> None:
    """A date without a zone is UTC's, whatever the machine's is."""
    assert datetime(2026, 11, 22, tzinfo=UTC) == moment("2026-11-22")


@pytest.mark.parametrize("text", ["", "3x", "yesterday", "2026-13-01", "9e99d"])
def test_since_refuses_what_is_no_time(text: str) -> None:
    """A span that cannot be meant is told, not taken for all."""
    with pytest.raises(typer.BadParameter, match="looks like 2d"):
        moment(text)


@pytest.mark.parametrize(("seconds", "words"), [(5, "5 s"), (130, "2 min"), (7_300, "2 h"), (200_000, "2 d")])
def test_an_age_is_told_in_its_largest_unit(seconds: int, words: str) -> None:
    """People read `2 h`, not seconds."""
    assert words == age(datetime.now(UTC) - timedelta(seconds=seconds))


def _item(number: int, outcome: Outcome, **more: object) -> ItemReport:
    return ItemReport.model_validate({"image": f"s3://my-bucket/images/{number}.jpg", "outcome": outcome, **more})


def test_the_table_begins_with_what_needs_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    """A failed image among a thousand is seen without scrolling."""
    items = (
        _item(1, Outcome.STORED),
        _item(2, Outcome.REFUSED, reason="too small"),
        _item(3, Outcome.FAILED, reason="no"),
    )
    print_report(Report(items=items), Settings(I2V_BUCKET="my-bucket"), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["images/3.jpg", "images/2.jpg", "images/1.jpg"]
    assert lines[-1] == "1 stored · 1 refused · 1 failed · $0.00"


def test_a_long_table_is_cut_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand good images do not bury the sentence at the end."""
    items = tuple(_item(number, Outcome.STORED) for number in range(1000))
    print_report(Report(items=items), Settings(I2V_BUCKET="my-bucket"), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= MOST_ROWS + 4
    assert f"{1000 - MOST_ROWS} more stored" in lines[-2]


def test_no_valid_image_is_code_3_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """The one error of a run without a valid image is that image's own."""
    report = Report(items=(_item(1, Outcome.REFUSED, reason="1.jpg is too small", valid=False),))
    assert tell_nothing_valid(report) == 3
    assert "1.jpg is too small" in capsys.readouterr().err


def test_a_valid_image_is_no_error() -> None:
    """One good image makes a run."""
    report = Report(items=(_item(1, Outcome.REFUSED, valid=False), _item(2, Outcome.STORED)))
    assert tell_nothing_valid(report) == 0


def test_progress_counts_jobs_by_step() -> None:
    """The bar tells how many images wait, are rendered and have ended, each once."""
    progress = Progress(Console(file=io.StringIO()))
    progress.counted(4)
    for step, job in (("rendering", "a"), ("rendering", "b"), ("rendering", "a"), ("storing", "b")):
        progress.step(step, job)
    progress.done(_item(1, Outcome.STORED, job="b"))
    assert progress.words == "2 waiting · 1 rendering · 1 stored"


def test_without_a_terminal_there_is_no_bar() -> None:
    """A log file gets lines now and then, and no control characters."""
    stream = io.StringIO()
    with Progress(Console(file=stream)) as progress:
        progress.doing("uploading", 3)
        progress.counted(3)
        progress.done(_item(1, Outcome.STORED))
    assert stream.getvalue() == "uploading: 3 (0 s)\n"
