"""`i2v jobs` and `i2v jobs show`: read the ledger. `i2v jobs resolve` is in `resolve`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from i2v.advised_commands import command, program
from i2v.cli import options
from i2v.cli.output.console import print_json
from i2v.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from i2v.ledger.job import JobRecord
    from i2v.ledger.ledger import Ledger

T = TypeVar("T")
KEY_MIN_DIGITS = 6
STATES = f"""
\b
States:
ready      not charged: the next run of its image submits it
claimed    being submitted
submitted  charged, and rendering at the provider
stored     its video is in the bucket
refused    the image, prompt or content was rejected
failed     something broke, at the provider or here
unknown    the answer to its submit was lost: see `{program()} jobs resolve`
forgotten  its image was erased; only `{program()} run IMAGE` redoes it
"""
app = typer.Typer(invoke_without_command=True, epilog=STATES)


@app.callback()
def jobs(
    context: typer.Context,
    *,
    state: Annotated[options.State | None, typer.Option(show_default="all", help="Only jobs in this state.")] = None,
    since: options.Since = None,
    as_json: options.Json = False,
) -> None:
    """List the jobs in the ledger, newest first. A job is one video."""
    if context.invoked_subcommand:
        return
    from i2v.cli.output.job_table import as_object, print_jobs

    async def read(ledger: Ledger) -> list[JobRecord]:
        return [record async for record in ledger.records(since=since) if state is None or record.state == state]

    records = sorted(with_ledger(read), key=lambda record: record.created_at, reverse=True)
    if as_json:
        print_json({"jobs": [as_object(record) for record in records]})
    else:
        print_jobs(records)


@app.command()
def show(
    key: Annotated[str, typer.Argument(help=f"The job's key, or its first {KEY_MIN_DIGITS} or more digits.")],
    *,
    as_json: options.Json = False,
) -> None:
    """Show job details and what to do next."""
    from i2v.cli.output.job_table import as_object, next_step, print_job

    record = with_ledger(lambda ledger: find_job(ledger, key))
    if as_json:
        print_json({**as_object(record), "next": next_step(record)})
    else:
        print_job(record)


async def find_job(ledger: Ledger, prefix: str) -> JobRecord:
    """Return the one job whose key begins with `prefix`; raise `UsageError` if there is none or several."""
    prefix = prefix.strip().lower()
    if len(prefix) < KEY_MIN_DIGITS or set(prefix) - set("0123456789abcdef"):
        raise UsageError(
            f"{prefix!r} is not a job key",
            f"Use {KEY_MIN_DIGITS} or more hex digits: {command('jobs')}",
        )
    keys = await ledger.find_keys(prefix)
    if not keys:
        raise UsageError(f"No job key begins with {prefix}", f"List the jobs with: {command('jobs')}")
    if len(keys) > 1:
        raise UsageError(f"{len(keys)} job keys begin with {prefix}", "Use more digits")
    return (await ledger.read_existing(keys[0])).record


def with_ledger(work: Callable[[Ledger], Awaitable[T]]) -> T:
    """Run `work` with the ledger of the settings."""
    from i2v.ledger.ledger import Ledger
    from i2v.s3.storage import Storage
    from i2v.settings import read_settings

    settings = read_settings()
    settings.require_bucket()

    async def call() -> T:
        with Storage() as storage:
            return await work(Ledger(storage, settings))

    return asyncio.run(call())
