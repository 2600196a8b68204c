"""Where the money went: `sum_spend` over the ledger, and whether the provider's balance says the same.

Only records changed within the window are read: an attempt of the window has changed its record since.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from i2v import names
from i2v.apixo.client import ApixoClient
from i2v.errors import NotFound, ProviderError
from i2v.jobs import FORMAT, ZERO, Attempt, JobRecord, JobState
from i2v.ledger import Ledger
from i2v.report import money_text
from i2v.settings import Settings
from i2v.storage import Storage

log = logging.getLogger(__name__)
TOLERANCE_USD = Decimal("0.005")
CLOCK_SLACK = timedelta(minutes=5)
"""Hosts' clocks and S3's may differ by so much."""


class Group(NamedTuple):
    """What attempts are summed by. `folder` is the image's, below the images prefix."""

    day: str
    mode: str
    folder: str
    label: str
    outcome: str


class Sums(BaseModel):
    """Money in US dollars."""

    attempts: int = 0
    stored_usd: Decimal = ZERO
    at_risk_usd: Decimal = ZERO
    open_usd: Decimal = ZERO

    @property
    def total_usd(self) -> Decimal:
        """All that was, or may have been, paid."""
        return self.stored_usd + self.at_risk_usd + self.open_usd

    def add(self, record: JobRecord, attempt: Attempt) -> None:
        """Count one attempt in full."""
        self.attempts += 1
        risk = record.at_risk_usd(attempt)
        self.at_risk_usd += risk
        if not risk and record.state is JobState.STORED:
            self.stored_usd += attempt.price_usd
        elif not risk:
            self.open_usd += attempt.price_usd


class Seen(BaseModel):
    """`jobs/spend.json`: what the last report saw."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    at: datetime
    balance_usd: Decimal


class SpendReport(BaseModel):
    """The sums of a window, and the balance's word on them."""

    since: datetime
    until: datetime
    groups: list[tuple[Group, Sums]]
    balance_usd: Decimal | None = None
    balance_fell_usd: Decimal | None = None
    """By how much the balance fell since the last report; less than nothing where it was topped up."""
    ledger_since_last_usd: Decimal | None = None
    """What the ledger holds of the same time."""

    @property
    def totals(self) -> Sums:
        """All groups together."""
        total = Sums()
        for _, sums in self.groups:
            total = Sums(
                attempts=total.attempts + sums.attempts,
                stored_usd=total.stored_usd + sums.stored_usd,
                at_risk_usd=total.at_risk_usd + sums.at_risk_usd,
                open_usd=total.open_usd + sums.open_usd,
            )
        return total

    @property
    def differs(self) -> bool:
        """Whether ledger and balance tell different stories."""
        if self.balance_fell_usd is None or self.ledger_since_last_usd is None:
            return False
        return abs(self.balance_fell_usd - self.ledger_since_last_usd) > TOLERANCE_USD

    @property
    def sentence(self) -> str:
        """The report in words."""
        sums = self.totals
        parts = [f"${money_text(sums.stored_usd)} stored", f"${money_text(sums.at_risk_usd)} at risk"]
        parts += [f"${money_text(sums.open_usd)} open"] if sums.open_usd else []
        if self.differs:
            fell, ours = self.balance_fell_usd or ZERO, self.ledger_since_last_usd or ZERO
            parts.append(f"the balance fell by ${money_text(fell)}, the ledger says ${money_text(ours)}")
        return " · ".join([f"{sums.attempts} attempts", *parts])

    def for_json(self) -> dict[str, Any]:
        """The report as plain JSON, money as strings."""
        return {
            **self.model_dump(mode="json", exclude={"groups"}),
            "groups": [{**group._asdict(), **sums.model_dump(mode="json")} for group, sums in self.groups],
            "totals": self.totals.model_dump(mode="json"),
            "differs": self.differs,
        }


def sum_groups(records: Iterable[JobRecord], since: datetime) -> list[tuple[Group, Sums]]:
    """The attempts claimed since then, by day, mode, folder, label and outcome."""
    sums: defaultdict[Group, Sums] = defaultdict(Sums)
    for record in records:
        for attempt in record.attempts:
            if attempt.claimed_at >= since:
                sums[_group(record, attempt)].add(record, attempt)
    return sorted(sums.items())


def _group(record: JobRecord, attempt: Attempt) -> Group:
    return Group(
        day=attempt.claimed_at.astimezone(UTC).date().isoformat(),
        mode=f"{record.request.mode} {record.request.duration} s",
        folder=record.image.name.rpartition("/")[0],
        label=record.label or "",
        outcome=record.state.value if attempt is record.attempt else "failed",
    )


async def sum_spend(
    storage: Storage, settings: Settings, *, days: int, client: ApixoClient | None = None
) -> SpendReport:
    """Sum the last days, and compare with the provider's balance since the last report.

    Args:
        storage: S3.
        settings: where the ledger lies.
        days: the window, in days of 24 hours back from now.
        client: the provider, to ask its balance; none leaves the balance out.

    Raises:
        LedgerError: a record cannot be read by this version.
        StorageError: S3 did not answer well.
    """
    now = datetime.now(UTC)
    since = now - timedelta(days=days)
    last = await _last(storage, settings)
    first = min(since, last.at) if last and client else since
    changed = [record async for record in Ledger(storage, settings).records(since=first - CLOCK_SLACK)]
    report = SpendReport(since=since, until=now, groups=sum_groups(changed, since))
    balance = await _balance(client)
    if balance is None:
        return report
    await _remember(storage, settings, Seen(at=now, balance_usd=balance))
    if last is None:
        return report.model_copy(update={"balance_usd": balance})
    ours = sum((sums.total_usd for _, sums in sum_groups(changed, last.at)), ZERO)
    fell = last.balance_usd - balance
    return report.model_copy(update={"balance_usd": balance, "balance_fell_usd": fell, "ledger_since_last_usd": ours})


async def _balance(client: ApixoClient | None) -> Decimal | None:
    try:
        return await client.balance() if client else None
    except ProviderError as error:
        log.warning("the provider's balance is not known: %s", error)
        return None


async def _last(storage: Storage, settings: Settings) -> Seen | None:
    try:
        found = await storage.get(names.spend_uri(settings))
        return Seen.model_validate_json(found.body)
    except (NotFound, ValidationError):
        return None


async def _remember(storage: Storage, settings: Settings, seen: Seen) -> None:
    body = seen.model_dump_json(indent=1).encode()
    await storage.put(names.spend_uri(settings), body, content_type="application/json")
