"""Mutants that hide something: promises 4, 5, 7 and 11."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from i2v.errors import I2vError
from i2v.ledger.ledger import Ledger
from i2v.pipeline import generate, heartbeat
from i2v.pipeline.outputs import publish
from i2v.pipeline.payment import check_and_pay
from i2v.reports.run_report import ItemReport, Report
from tests.simulator.mutants.replacing import Mutant, do_nothing, replace, write_unconditionally


def image_not_named() -> None:
    """4: the last image has no line in the report."""

    def report(items: Sequence[ItemReport] = (), **more: Any) -> Report:
        return Report(items=tuple(items[:-1]), **more)

    replace(generate, "Report", report)


def replaced_image_not_flagged() -> None:
    """5: a video of an image that was replaced meanwhile is not flagged."""

    async def flags(*_: Any) -> tuple[str, ...]:
        return ()

    replace(check_and_pay, "_raise_if_changed", do_nothing)
    replace(publish, "_changed_flags", flags)


def manifest_missing() -> None:
    """7: a video has no manifest."""
    replace(publish, "_put_manifest", do_nothing)


def heartbeat_overwrites_report() -> None:
    """11: a heartbeat that is still under way overwrites the run's report."""
    replace(heartbeat, "write_document", write_unconditionally)


def unreadable_record_stops_reconcile() -> None:
    """11: a record that cannot be read ends the whole reconcile."""
    original = Ledger.read_many

    async def read_many(self: Ledger, job_keys: Sequence[str]) -> AsyncIterator[Any]:
        async for key, found in original(self, job_keys):
            if isinstance(found, I2vError):
                raise found
            yield key, found

    replace(Ledger, "read_many", read_many)


MUTANTS: tuple[Mutant, ...] = (
    image_not_named,
    replaced_image_not_flagged,
    manifest_missing,
    heartbeat_overwrites_report,
    unreadable_record_stops_reconcile,
)
