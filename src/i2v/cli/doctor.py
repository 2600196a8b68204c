"""`i2v doctor`: the checks of `i2v.doctor` and of the Prefect server, as lines that say what to do."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from i2v.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from i2v.doctor import Finding

STYLES = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def doctor(*, as_json: options.Json = False) -> None:
    """Check that all is well outside, and say what to do about what is not.

    It looks at key and balance, bucket and rights, conditional writes, presigned URLs, the ledger, lifecycle rules,
    the clock and the Prefect server. It costs nothing and leaves nothing behind. Exit 0, or 1 where something is at
    fault.
    """
    from i2v.cli.output.report_table import print_json
    from i2v.doctor import Level

    findings = asyncio.run(_examine())
    sound = all(finding.level is not Level.FAULT for finding in findings)
    if as_json:
        checks = [{"check": f.check, "level": f.level, "message": f.message, "hint": f.hint} for f in findings]
        print_json({"ok": sound, "checks": checks})
    else:
        _print(findings)
    sys.exit(0 if sound else 1)


async def _examine() -> list[Finding]:
    from i2v.doctor import Finding, Level, bounded, examine
    from i2v.errors import UsageError
    from i2v.s3.storage import Storage
    from i2v.settings import read_settings

    findings = []
    try:
        settings = read_settings()
    except UsageError as error:
        findings.append(Finding("settings", Level.FAULT, error.message, error.hint))
    else:
        with Storage() as storage:
            findings += await examine(settings, storage)
    return [*findings, await bounded("prefect", _prefect)]


async def _prefect() -> Finding:
    from i2v.cli.prefect import connection
    from i2v.doctor import Finding, Level

    address = connection.configured_api()
    if address is None:
        return Finding("prefect", Level.OK, "no PREFECT_API_URL: each command runs a server of its own meanwhile")
    version = await connection.check_api()
    return Finding("prefect", Level.OK, f"{address} answers, version {version}")


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
