"""`i2v doctor`: print the checks of `i2v.doctor` and of the Prefect server."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.text import Text

from i2v.cli import options
from i2v.cli.output.console import print_json, stdout
from i2v.doctor.findings import Finding, Level, run_check
from i2v.errors import ExitCode, UsageError

STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.FAULT: "bold red"}


def doctor(*, as_json: options.Json = False) -> None:
    """Check your setup, and print how to fix what is wrong.

    Checks the API key and balance, the bucket and its permissions, conditional
    writes, presigned URLs, the ledger, lifecycle rules, the clock and Prefect.
    Charges nothing and leaves nothing behind. Exit code 0, or 1 on a fault.
    """
    findings = asyncio.run(_examine())
    is_ok = all(finding.level is not Level.FAULT for finding in findings)
    if as_json:
        print_json({"ok": is_ok, "checks": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
    sys.exit(ExitCode.OK if is_ok else ExitCode.FAILED)


async def _examine() -> list[Finding]:
    from i2v.doctor.checks import examine
    from i2v.s3.storage import Storage
    from i2v.settings import read_settings

    try:
        settings = read_settings()
        storage = Storage()
    except UsageError as error:
        findings = [Finding("settings", Level.FAULT, error.message, error.hint)]
    else:
        with storage:
            findings = await examine(settings, storage)
    return [*findings, await run_check("prefect", _check_prefect)]


async def _check_prefect() -> Finding:
    import prefect
    from packaging.version import Version

    from i2v.cli.prefect import connection
    from i2v.cli.prefect.server_errors import shown_api_url

    if connection.configured_api() is None:
        return Finding("prefect", Level.OK, "PREFECT_API_URL is not set: each run starts a temporary server")
    version, ours = await connection.check_api(), prefect.__version__
    message = f"{shown_api_url()} responds, version {version}"
    if Version(version) < Version(ours):
        hint = "Upgrade the server: Prefect does not support servers older than the client"
        return Finding("prefect", Level.WARNING, f"{message}; this is {ours}", hint)
    return Finding("prefect", Level.OK, message)


def _print(findings: Sequence[Finding]) -> None:
    console = stdout()
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        level = (f"{finding.level:7}", STYLES[finding.level])
        console.print(Text.assemble(level, f"  {finding.check:{width}}  {finding.message}"), soft_wrap=True)
        if finding.hint:
            console.print(f"{'':{width + 11}}{finding.hint}", style="italic", soft_wrap=True)
