"""Parsing of the command line: help, options, amounts and times. No server."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import get_args

import pytest
import typer
from typer.testing import CliRunner

from i2v.cli import options
from i2v.cli.app import app
from i2v.cli.options import dollars, moment
from i2v.ledger.job import JobState
from i2v.request import Duration, Mode

HEAVY = {"prefect", "boto3", "botocore", "httpx", "av", "PIL", "pydantic"}
COMMANDS = ("run", "estimate", "jobs", "reconcile", "pause", "resume", "doctor")


def test_help_imports_nothing_heavy() -> None:
    """`i2v --help` answers at once, because slow imports are inside the commands."""
    code = "import sys; from i2v.cli.app import app; print(*{name.partition('.')[0] for name in sys.modules})"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()  # noqa: S603 - our own code
    assert "typer" in names
    assert set() == HEAVY & set(names)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_lists_its_options(command: str) -> None:
    """`--help` of every command lists its options, `--json` among them."""
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert (result.exit_code, "--json" in result.output) == (0, True)


@pytest.mark.parametrize(
    "command", [[], ["run"], ["estimate"], ["jobs"], ["jobs", "resolve"], ["reconcile"], ["pause"]]
)
def test_help_is_readable_at_80_columns(command: list[str]) -> None:
    """No line is longer, no summary is cut, flags look like flags, and no markup is left."""
    text = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "80", "TERM": "dumb"}).output
    assert max(map(len, text.splitlines())) <= 80
    assert [part for part in ("...\n", "<bool>", "[/", "[bold]") if part in text.partition("\n")[2]] == []
    assert "  -h, --help  " in text


@pytest.mark.parametrize("words", [["run"], ["run", "x.jpg", "--duration", "7"], ["run", "x.jpg", "--max-spend", "-1"]])
def test_wrong_usage_exits_2(words: list[str]) -> None:
    """A missing argument or an invalid option value exits 2."""
    assert CliRunner().invoke(app, words).exit_code == 2


def test_the_choices_are_those_of_the_library() -> None:
    """The modes, durations and states on the command line, copied for speed, are exactly those of the library."""
    assert [str(mode) for mode in Mode] == list(get_args(options.Mode))
    assert [str(seconds) for seconds in get_args(get_args(Duration)[0])] == list(get_args(options.Seconds))
    assert [str(state) for state in JobState] == list(get_args(options.State))


@pytest.mark.parametrize(("text", "amount"), [("5", "5"), ("$0.50", "0.50"), (" 2 ", "2"), ("0", "0")])
def test_dollars_are_parsed_exactly(text: str, amount: str) -> None:
    """An amount is the decimal that was typed."""
    assert Decimal(amount) == dollars(text)


@pytest.mark.parametrize("text", ["", "five", "-1", "nan", "inf", "1e999999"])
def test_an_invalid_amount_is_rejected(text: str) -> None:
    """An invalid limit never becomes no limit."""
    with pytest.raises(typer.BadParameter, match="US dollars"):
        dollars(text)


@pytest.mark.parametrize(("text", "before"), [("2d", 172_800), ("12h", 43_200), ("30m", 1_800), ("1w", 604_800)])
def test_since_accepts_a_period(text: str, before: int) -> None:
    """`2d` is two days ago."""
    assert abs((datetime.now(UTC) - moment(text)).total_seconds() - before) < 5


def test_since_accepts_a_date_in_utc() -> None:
    """A date without a time zone is in UTC, whatever the time zone of the machine."""
    assert datetime(2026, 11, 22, tzinfo=UTC) == moment("2026-11-22")


@pytest.mark.parametrize("text", ["", "3x", "yesterday", "2026-13-01", "9e99d"])
def test_since_rejects_an_invalid_time(text: str) -> None:
    """An invalid period never selects everything."""
    with pytest.raises(typer.BadParameter, match=r"use e\.g\. 2d"):
        moment(text)
