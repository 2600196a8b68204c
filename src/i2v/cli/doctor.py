"""`i2v doctor`: print the checks of `i2v.doctor` and of the Prefect server."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from i2v.cli import options
from i2v.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from i2v.doctor.findings import Finding

STYLES = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def doctor(*, as_json: options.Json = False) -> None:
    """Check services and credentials, and print how to fix what is wrong.

    Checks the API key and balance, the bucket and its permissions, conditional writes, presigned URLs, the ledger,
    lifecycle rules, the clock and the Prefect server. No charges; nothing is left behind. Exit code 0, or 1 on a fault.
    """
    from i2v.cli.output.console import print_json
    from i2v.doctor.findings import Level

    findings = asyncio.run(_examine())
    is_ok = all(finding.level is not Level.FAULT for finding in findings)
    if as_json:
        checks = [{"check": f.check, "level": f.level, "message": f.message, "hint": f.hint} for f in findings]
        print_json({"ok": is_ok, "checks": checks})
    else:
        _print(findings)
    sys.exit(ExitCode.OK if is_ok else ExitCode.FAILED)


async def _examine() -> list[Finding]:
    from i2v.doctor.checks import examine
    from i2v.doctor.findings import Finding, Level, run_check
    from i2v.errors import UsageError
    from i2v.s3.storage import Storage
    from i2v.settings import read_settings

    try:
        settings = read_settings()
    except UsageError as error:
        findings = [Finding("settings", Level.FAULT, error.message, error.hint)]
    else:
        with Storage() as storage:
            findings = list(await examine(settings, storage))
    return [*findings, await run_check("prefect", _prefect)]


async def _prefect() -> Finding:
    from i2v.cli.prefect import connection
    from i2v.doctor.findings import Finding, Level

    address = connection.configured_api()
    if address is None:
        return Finding("prefect", Level.OK, "PREFECT_API_URL is not set: i2v run starts a temporary server")
    version = await connection.check_api()
    return Finding("prefect", Level.OK, f"{address} responds, version {version}")


def _print(findings: Sequence[Finding]) -> None:
    from rich.text import Text

    from i2v.cli.output.console import stdout

    console = stdout()
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        level = (f"{finding.level:7}", STYLES[finding.level])
        console.print(Text.assemble(level, f"  {finding.check:{width}}  {finding.message}"), soft_wrap=True)
        if finding.hint:
            console.print(Text(f"{'':{width + 11}}{finding.hint}", style="italic"), soft_wrap=True)
