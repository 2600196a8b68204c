"""`i2v jobs` and `i2v jobs show`: what the ledger knows, read only."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from i2v.cli import options
from i2v.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from i2v.ledger.job import JobRecord
    from i2v.ledger.ledger import Ledger

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
T = TypeVar("T")
KEY_LEAST_DIGITS = 6
app = typer.Typer(invoke_without_command=True, help="List the ledger's jobs; `i2v jobs show KEY` tells all about one.")


class State(StrEnum):
    """`i2v.ledger.job.JobState`, named again since that import takes longer than `--help` may."""

    READY = "ready"
    CLAIMED = "claimed"
    SUBMITTED = "submitted"
    STORED = "stored"
    REFUSED = "refused"
    FAILED = "failed"
    UNKNOWN = "unknown"


@app.callback()
def jobs(
    context: typer.Context,
    *,
    state: Annotated[State | None, typer.Option(show_default="all", help="Only jobs in this state.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="D", show_default="all", help="Only jobs that changed since: 2d, 12h or 2026-11-22."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the ledger's jobs, newest first: one line for each video that was or is to be paid.

    unknown: the answer to a paid submit was lost; only a person can tell. submitted: still open at the provider.
    """
    if context.invoked_subcommand:
        return
    from i2v.cli.output.job_table import as_object, print_jobs
    from i2v.cli.output.report_table import print_json
    from i2v.ledger.job import JobState

    after = moment(since) if since else None

    async def read(ledger: Ledger) -> list[JobRecord]:
        wanted = JobState(state) if state else None
        return [record async for record in ledger.records(since=after) if wanted in {None, record.state}]

    records = sorted(_with_ledger(read), key=lambda record: record.created_at, reverse=True)
    if as_json:
        print_json({"jobs": [as_object(record) for record in records]})
    else:
        print_jobs(records)


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="The job's key, or its beginning of at least 6 digits.")],
    *,
    as_json: options.Json = False,
) -> None:
    """Tell everything about one job, and what to do next."""
    from i2v.cli.output.job_table import as_object, next_step, print_job
    from i2v.cli.output.report_table import print_json

    async def read(ledger: Ledger) -> JobRecord:
        return (await ledger.read_existing(await find_one(ledger, key))).record

    record = _with_ledger(read)
    if as_json:
        print_json({**as_object(record), "next": next_step(record)})
    else:
        print_job(record)


async def find_one(ledger: Ledger, start: str) -> str:
    """The one job key that begins so.

    Raises:
        UsageError: none or several do, or it is no beginning of a key.
        StorageError: S3 did not answer well.
    """
    start = start.strip().lower()
    if len(start) < KEY_LEAST_DIGITS or set(start) - set("0123456789abcdef"):
        raise UsageError(f"{start!r} is no job key", f"It is hex, and {KEY_LEAST_DIGITS} digits or more: see i2v jobs")
    found = await ledger.find_keys(start)
    if not found:
        raise UsageError(f"No job's key begins with {start}", "See i2v jobs")
    if len(found) > 1:
        raise UsageError(f"{len(found)} jobs' keys begin with {start}", "Give more digits")
    return found[0]


def moment(text: str) -> datetime:
    """The time that `2d`, `12h` or an ISO date means; without a zone it is UTC.

    Raises:
        typer.BadParameter: it is none of these.
    """
    number, unit = text.strip()[:-1], text.strip()[-1:]
    try:
        if unit in UNITS:
            return datetime.now(UTC) - timedelta(**{UNITS[unit]: float(number)})
        found = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no time; it looks like 2d, 12h or 2026-11-22") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _with_ledger(read: Callable[[Ledger], Awaitable[T]]) -> T:
    from i2v.ledger.ledger import Ledger
    from i2v.s3.storage import Storage
    from i2v.settings import read_settings

    settings = read_settings()
    settings.require_bucket()

    async def call() -> T:
        with Storage() as storage:
            return await read(Ledger(storage, settings))

    return asyncio.run(call())
