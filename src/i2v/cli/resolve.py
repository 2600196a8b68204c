"""`i2v jobs resolve`: what only a person can say of jobs. It asks before it does what may cost money."""

from __future__ import annotations

import asyncio
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from i2v.cli import options
from i2v.cli.jobs import State, find_one
from i2v.errors import CannotResolve, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from i2v.ledger.job import JobRecord
    from i2v.recovery.resolve import Resolver
    from i2v.settings import Settings

MEANS = {
    "resubmit": "ready: the next run that wants them pays ${usd} for them",
    "drop": "given up for good: no video, though they may have been billed (${usd})",
}


def resolve(
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY…", show_default=False, help="Jobs, by their keys or beginnings of 6 digits."),
    ] = None,
    *,
    state: Annotated[State | None, typer.Option(help="All jobs in this state; with --all.", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Confirms that --state means all of them.")] = False,
    adopt: Annotated[
        str | None,
        typer.Option(metavar="TASKID", show_default=False, help="One unknown job is this task of the provider's."),
    ] = None,
    resubmit: Annotated[
        bool, typer.Option("--resubmit", help="Have unknown, refused or failed jobs paid again by the next run.")
    ] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Give unknown or submitted jobs up.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: options.Json = False,
) -> None:
    """Resolve jobs that i2v may not decide by itself, such as one whose paid submit lost its answer.

    Look into the provider's own list of tasks first. Is the task there: --adopt it, and its video is stored unpaid.
    Is it not: --resubmit. Nothing is paid by this command itself.
    """
    from i2v.settings import read_settings

    _check(keys, state, adopt, every=every, resubmit=resubmit, drop=drop)
    settings = read_settings()
    settings.require_bucket()
    todo = "adopt" if adopt else "resubmit" if resubmit else "drop"
    records, troubles = asyncio.run(_resolve(settings, keys or (), state, adopt, todo, ask=not yes))
    _tell(records, troubles, as_json=as_json)


def _check(
    keys: list[str] | None, state: State | None, adopt: str | None, *, every: bool, resubmit: bool, drop: bool
) -> None:
    if sum((adopt is not None, resubmit, drop)) != 1:
        raise UsageError("Say one of --adopt TASKID, --resubmit and --drop", "See i2v jobs resolve --help")
    if bool(keys) == bool(state):
        raise UsageError("Name jobs by their keys, or all of a state with --state S --all", "See i2v jobs")
    if state and not every:
        raise UsageError(f"--state {state} means all of them", "Add --all if that is meant")
    if adopt is not None and len(keys or ()) != 1:
        raise UsageError("One task is one job's", "Name one KEY with --adopt")


async def _resolve(
    settings: Settings, keys: Sequence[str], state: State | None, adopt: str | None, todo: str, *, ask: bool
) -> tuple[list[JobRecord], list[CannotResolve]]:
    from i2v.ledger.ledger import Ledger
    from i2v.recovery.resolve import Resolver
    from i2v.s3.storage import Storage

    with Storage() as storage:
        ledger = Ledger(storage, settings)
        if state:
            chosen = [record async for record in ledger.records() if record.state.value == state.value]
        else:
            chosen = [(await ledger.read_existing(await find_one(ledger, key))).record for key in keys]
        if ask and chosen and todo != "adopt":
            _ask(chosen, todo)
        resolver, done, troubles = Resolver(storage, settings), [], []
        for record in chosen:
            try:
                done.append(await _one(resolver, settings, record.key, adopt, todo))
            except CannotResolve as error:
                troubles.append(error)
        return done, troubles


async def _one(resolver: Resolver, settings: Settings, key: str, adopt: str | None, todo: str) -> JobRecord:
    if adopt is None:
        return await (resolver.resubmit(key) if todo == "resubmit" else resolver.drop(key))
    from i2v.apixo.client import ApixoClient

    async with ApixoClient(settings) as client:
        return await resolver.adopt(key, adopt, client)


def _ask(chosen: Sequence[JobRecord], todo: str) -> None:
    """Let the person confirm; whoever cannot be asked has to say --yes.

    Raises:
        UsageError: nobody is there to be asked.
    """
    from i2v.money import money_text

    usd = money_text(sum((record.attempts[-1].price_usd for record in chosen if record.attempts), start=Decimal(0)))
    for record in chosen:
        sys.stderr.write(f"{record.key[:12]}  {record.state}  {record.image.name}\n")
    sys.stderr.write(f"{len(chosen)} jobs will be {MEANS[todo].format(usd=usd)}.\n")
    if not sys.stdin.isatty():
        raise UsageError("Nobody can be asked, since this is no terminal", "Add --yes if that is meant")
    typer.confirm("Go on?", abort=True, err=True)


def _tell(records: Sequence[JobRecord], troubles: Sequence[CannotResolve], *, as_json: bool) -> None:
    from i2v.cli.output.job_table import as_object, next_step
    from i2v.cli.output.report_table import print_json, tell

    for error in troubles:
        tell(error)
    if as_json:
        print_json({"jobs": [as_object(record) for record in records], "not_resolved": [str(e) for e in troubles]})
    else:
        for record in records:
            sys.stdout.write(f"{record.key[:12]}  {record.state}  {record.image.name}\n  {next_step(record)}\n")
        if not records and not troubles:
            sys.stdout.write("no such jobs\n")
    if troubles:
        raise typer.Exit(CannotResolve.exit_code)
