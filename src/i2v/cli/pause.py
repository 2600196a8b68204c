"""`i2v pause` and `i2v resume`: the flag in the ledger that every run reads before it submits."""

from __future__ import annotations

import asyncio
import sys

from i2v.cli import options


def pause(*, as_json: options.Json = False) -> None:
    """Stop all submits of all runs, here and elsewhere, until `i2v resume`.

    Runs see it before their next block of submits, at most 32 videos later. What is submitted already is still stored.
    """
    _set(True, as_json=as_json)


def resume(*, as_json: options.Json = False) -> None:
    """Allow submits again after `i2v pause`. What was not tried meanwhile needs a new run."""
    _set(False, as_json=as_json)


def _set(paused: bool, *, as_json: bool) -> None:
    from i2v.cli.output.report_table import print_json
    from i2v.settings import read_settings

    settings = read_settings()
    settings.require_bucket()

    async def write() -> bool:
        from i2v.ledger.ledger import Ledger
        from i2v.s3.storage import Storage

        with Storage() as storage:
            return await Ledger(storage, settings).set_paused(paused)

    changed = asyncio.run(write())
    if as_json:
        print_json({"paused": paused, "changed": changed})
        return
    words = "paused: no run submits anything now" if paused else "resumed: runs may submit"
    sys.stdout.write(f"{settings.jobs} {'is' if changed else 'was already'} {words}\n")
