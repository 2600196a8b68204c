"""`i2v jobs resolve`: decide what happens to a job when i2v cannot."""

from __future__ import annotations

import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from i2v.advised_commands import command
from i2v.cli import options
from i2v.cli.jobs import find_job, with_ledger
from i2v.cli.output.console import print_error, print_json
from i2v.errors import CannotResolve, UsageError
from i2v.money import money_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from i2v.ledger.job import JobRecord
    from i2v.ledger.ledger import Ledger

RESUBMIT_QUESTION = "{jobs} will be retried: the next run is charged ${usd}."
DROP_QUESTION = "{jobs} will be abandoned without a video; the provider may have charged ${usd}."


def resolve(  # noqa: PLR0913 - a command's parameters are its options
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY", show_default=False, help="Job keys, or their first 6 or more digits."),
    ] = None,
    *,
    state: Annotated[
        options.State | None, typer.Option(help="All jobs in this state, with --all.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Confirm that you mean all jobs in --state.")] = False,
    adopt: Annotated[
        str | None,
        typer.Option(metavar="TASKID", show_default=False, help="Assign the provider's task to an unknown job."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Accept videos that could not be verified.")] = False,
    resubmit: Annotated[
        bool,
        typer.Option(
            "--resubmit",
            help="Retry unknown, refused or failed jobs, or those with an unverified video; the next run is charged.",
        ),
    ] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Abandon unknown or submitted jobs.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: options.Json = False,
) -> None:
    """Resolve jobs that need a decision, such as unknown ones.

    Check the provider's task list first. If the task is there, --adopt it: its
    video is stored without another charge. If it is not there, --resubmit the job.
    This command itself never submits anything.
    """
    _check_usage(keys, state, adopt, every=every, others=(keep, resubmit, drop))

    async def work(ledger: Ledger) -> tuple[list[JobRecord], list[CannotResolve]]:
        if state:
            chosen = [record async for record in ledger.records() if _is_chosen(record, state)]
        else:
            chosen = [await find_job(ledger, key) for key in keys or ()]
        if chosen and adopt is None and not keep and not yes:
            _confirm(chosen, RESUBMIT_QUESTION if resubmit else DROP_QUESTION)
        return await _resolve_all(ledger, chosen, adopt, "keep" if keep else "resubmit" if resubmit else "drop")

    _print(*with_ledger(work), as_json=as_json)


def _is_chosen(record: JobRecord, state: str) -> bool:
    """Select by state; of stored jobs only those whose video is unverified."""
    attempt = record.attempt
    return record.state == state and (state != "stored" or bool(attempt and attempt.is_unverified))


def _check_usage(
    keys: list[str] | None, state: options.State | None, adopt: str | None, *, every: bool, others: tuple[bool, ...]
) -> None:
    if sum((adopt is not None, *others)) != 1:
        allowed = "--adopt TASKID, --keep, --resubmit and --drop"
        raise UsageError(f"Use exactly one of {allowed}", f"See: {command('jobs', 'resolve', '--help')}")
    if bool(keys) == bool(state):
        raise UsageError("Use either job keys or --state S --all", f"List the jobs with: {command('jobs')}")
    if state and not every:
        raise UsageError(f"--state {state} selects all of its jobs", "Add --all to confirm")
    if adopt is not None and len(keys or ()) != 1:
        raise UsageError("--adopt needs exactly one job key", "A task belongs to one job")


def _confirm(chosen: Sequence[JobRecord], question: str) -> None:
    """Ask for confirmation; abort if the answer is no, or raise `UsageError` if there is no terminal."""
    usd = money_text(sum((record.attempts[-1].price_usd for record in chosen if record.attempts), start=Decimal(0)))
    for record in chosen:
        sys.stderr.write(f"{record.key[:12]}  {record.state}  {record.image.name}\n")
    jobs = "1 job" if len(chosen) == 1 else f"{len(chosen)} jobs"
    sys.stderr.write(f"{question.format(jobs=jobs, usd=usd)}\n")
    if not sys.stdin.isatty():
        raise UsageError("Cannot ask for confirmation: stdin is not a terminal", "Add --yes to confirm")
    typer.confirm("Continue?", abort=True, err=True)


async def _resolve_all(
    ledger: Ledger, chosen: Sequence[JobRecord], adopt: str | None, how: Literal["keep", "resubmit", "drop"]
) -> tuple[list[JobRecord], list[CannotResolve]]:
    """Return the changed records, and an error for each job whose state does not allow the change."""
    from i2v.apixo.client import ApixoClient
    from i2v.recovery.resolve_by_hand import Resolver

    resolver, done, errors = Resolver(ledger.storage, ledger.settings), [], []
    for record in chosen:
        try:
            if adopt is not None:
                async with ApixoClient(ledger.settings) as client:
                    done.append(await resolver.adopt(record.key, adopt, client))
            else:
                ways = {"keep": resolver.keep, "resubmit": resolver.resubmit, "drop": resolver.drop}
                done.append(await ways[how](record.key))
        except CannotResolve as error:
            errors.append(error)
    return done, errors


def _print(records: Sequence[JobRecord], errors: Sequence[CannotResolve], *, as_json: bool) -> None:
    from i2v.cli.output.job_table import as_object, next_step

    for error in errors:
        print_error(error)
    if as_json:
        print_json({"jobs": [as_object(record) for record in records], "not_resolved": [str(e) for e in errors]})
    else:
        for record in records:
            sys.stdout.write(f"{record.key[:12]}  {record.state}  {record.image.name}\n  {next_step(record)}\n")
        if not records and not errors:
            sys.stdout.write("no matching jobs\n")
    if errors:
        raise typer.Exit(CannotResolve.exit_code)
