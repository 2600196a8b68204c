"""`i2v export`: write the tables for a warehouse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from i2v.advised_commands import program
from i2v.cli import options
from i2v.cli.jobs import with_ledger
from i2v.cli.output.console import print_json, stdout
from i2v.errors import ExitCode

if TYPE_CHECKING:
    from i2v.export.write import Export
    from i2v.ledger.ledger import Ledger

EPILOG = f"""
\b
Examples:
{program()} export
{program()} export --since 2026-01-01 --out s3://my-warehouse/i2v/
{program()} export --out ./tables

Exit codes: 0 the tables are up to date; 1 S3 or the disk failed, or a job record cannot be read, and its rows are the
old ones; 2 wrong usage, or pyarrow is not installed.
"""


def export(
    *,
    since: Annotated[
        datetime | None,
        typer.Option(
            metavar="D",
            parser=options.moment,
            show_default="30d",
            help="First UTC day: 30d (ago) or a date such as 2026-11-22. Tables keep any earlier days they have.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", show_default="tables/ in the jobs prefix", help="s3://bucket/prefix/ or a local folder."
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write Parquet tables of videos, attempts and costs.

    There is one folder per UTC day. Repeat it, for example daily: it reads only the job records that changed since the
    last time, and writes only their days.
    """
    from i2v.export.places import place_at
    from i2v.export.write import export_tables

    first = (since or datetime.now(UTC) - timedelta(days=30)).astimezone(UTC).date()

    async def work(ledger: Ledger) -> Export:
        return await export_tables(ledger, place_at(out, ledger.storage, ledger.settings), first)

    result = with_ledger(work)
    if as_json:
        print_json(
            {
                "place": result.place,
                "first_day": str(result.first_day),
                "records": result.records,
                "written": [{"file": name, "rows": rows} for name, rows in sorted(result.written.items())],
                "unread": sorted(result.unread),
            }
        )
    else:
        _print(result)
    if result.unread:
        raise typer.Exit(ExitCode.FAILED)


def _print(result: Export) -> None:
    console = stdout()
    for name, rows in sorted(result.written.items()):
        console.print(f"{name}: {rows:,} row{'' if rows == 1 else 's'}", soft_wrap=True)
    records = f"{result.records:,} changed job record{'' if result.records == 1 else 's'} read"
    files = f"{len(result.written):,} file{'' if len(result.written) == 1 else 's'} written"
    console.print(f"{records}, {files}: {result.place} has all days from {result.first_day} on", soft_wrap=True)
    for key in sorted(result.unread):
        console.print(f"not read: job {key[:12]}; its rows are those of the last export", soft_wrap=True)
