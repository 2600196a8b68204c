"""The spend report: `sum_spend` sums the ledger and compares it with the provider's balance.

It takes the attempts from the tables of `i2v.export` and the records that changed since, or without tables from the
records written in the window, and sums them as they arrive, so that memory does not grow with the ledger.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, Field

from i2v.apixo.client import ApixoClient
from i2v.errors import ProviderError
from i2v.export.read import attempts_since
from i2v.export.rows import AttemptRow
from i2v.ledger import keys
from i2v.ledger.documents import read_if_valid
from i2v.ledger.job import FORMAT, JobState
from i2v.ledger.ledger import Ledger
from i2v.money import ZERO, money_text
from i2v.reports.limit_usage import LimitUsage, read_usage
from i2v.reports.savings import RunSavings, read_savings
from i2v.s3.storage import Storage
from i2v.settings import Settings

log = logging.getLogger(__name__)
TOLERANCE_USD = Decimal("0.005")
CLOCK_SLACK = timedelta(minutes=5)
"""How far S3's clock may be from the hosts'."""
MONTH_DAYS = 30
MAX_AT_RISK = 20
"""Jobs at risk that the report lists."""


class Group(NamedTuple):
    """What sums are grouped by; `folder` is the image's folder under the images prefix."""

    day: str
    mode: str
    folder: str
    label: str
    outcome: str


class Sums(BaseModel):
    """Sums in US dollars."""

    attempts: int = 0
    stored_usd: Decimal = ZERO
    at_risk_usd: Decimal = ZERO
    possibly_charged_usd: Decimal = ZERO
    """The part of it whose submits have no known answer."""
    open_usd: Decimal = ZERO
    saved_images: int = 0
    """Images that cost nothing, because their job existed already."""
    saved_usd: Decimal = ZERO
    """What those images would have cost."""

    @property
    def total_usd(self) -> Decimal:
        """Everything charged or possibly charged."""
        return self.stored_usd + self.at_risk_usd + self.open_usd

    def add(self, attempt: AttemptRow) -> None:
        """Add an attempt at its full price."""
        self.attempts += 1
        self.at_risk_usd += attempt.at_risk_usd
        self.possibly_charged_usd += attempt.possibly_charged_usd
        self.stored_usd += attempt.stored_usd
        self.open_usd += attempt.open_usd

    def __add__(self, other: Self) -> Self:
        return self.model_copy(update={name: getattr(self, name) + getattr(other, name) for name in Sums.model_fields})


Groups = list[tuple[Group, Sums]]
NONE = "(none)"
"""The folder of an image without a folder, and the label of a run without one."""
GROUPINGS: dict[str, Callable[[Group], str]] = {
    "mode": lambda group: group.mode,
    "folder": lambda group: group.folder or NONE,
    "label": lambda group: group.label or NONE,
}
"""What pages and charts group by, and the name of a group."""


class AtRisk(NamedTuple):
    """An attempt that was charged or possibly charged, without a video."""

    at: datetime
    job: str
    image: str
    state: JobState
    usd: Decimal


class SpendWindow:
    """Sums of the attempts claimed and the runs ended since a time."""

    def __init__(self, since: datetime) -> None:
        self.since = since
        self._sums: defaultdict[Group, Sums] = defaultdict(Sums)
        self.at_risk: list[AtRisk] = []
        """The newest `MAX_AT_RISK`, newest first."""

    def add_attempt(self, attempt: AttemptRow) -> None:
        """Add an attempt that was claimed in the window and costs something."""
        if attempt.claimed_at < self.since or not attempt.cost_usd:
            return
        self._sums[_group(attempt)].add(attempt)
        if risk := attempt.at_risk_usd:
            found = AtRisk(attempt.claimed_at, attempt.job, attempt.image, JobState(attempt.state), risk)
            self.at_risk = sorted([*self.at_risk, found], reverse=True)[:MAX_AT_RISK]

    def add_savings(self, run: RunSavings) -> None:
        """Add what a run did not have to pay."""
        if run.ended_at and run.ended_at >= self.since:
            for each in run.saved:
                group = Group(_day(run.ended_at), each.mode, each.folder, run.label or "", each.outcome)
                self._sums[group] += Sums(saved_images=each.images, saved_usd=each.usd)

    @property
    def groups(self) -> Groups:
        """The sums by group, oldest day first."""
        return sorted(self._sums.items(), key=lambda item: item[0])


def sum_groups(groups: Groups) -> Sums:
    """Return the sum of all groups."""
    return sum((sums for _, sums in groups), Sums())


class BalanceSnapshot(BaseModel):
    """`jobs/spend.json`: the provider's balance at the last report."""

    format: int = FORMAT
    at: datetime
    balance_usd: Decimal


class SpendReport(BaseModel):
    """The sums of a window, compared with the provider's balance."""

    since: datetime
    until: datetime
    groups: Groups
    month: Groups = Field(default=[], exclude=True)
    """The groups of the `MONTH_DAYS` UTC days up to `until`."""
    at_risk: list[AtRisk] = Field(default=[], exclude=True)
    """The newest of the month."""
    limits: list[LimitUsage] = Field(default=[], exclude=True)
    """What the spending limits have left."""
    balance_usd: Decimal | None = None
    balance_fell_usd: Decimal | None = None
    """How much the balance fell since the last report; negative after a top-up."""
    ledger_since_last_usd: Decimal | None = None
    """What the ledger charged in the same time."""

    @property
    def totals(self) -> Sums:
        """The sum of all groups."""
        return sum_groups(self.groups)

    @property
    def differs(self) -> bool:
        """Whether the ledger and the balance disagree."""
        fell, ours = self.balance_fell_usd, self.ledger_since_last_usd
        return fell is not None and ours is not None and abs(fell - ours) > TOLERANCE_USD

    @property
    def summary(self) -> str:
        """One line with attempts and sums."""
        sums = self.totals
        parts = [f"${money_text(sums.stored_usd)} stored", f"${money_text(sums.at_risk_usd)} at risk"]
        parts += [f"${money_text(sums.open_usd)} open"] if sums.open_usd else []
        parts += [f"${money_text(sums.saved_usd)} saved"] if sums.saved_usd else []
        if self.differs:
            fell, ours = self.balance_fell_usd or ZERO, self.ledger_since_last_usd or ZERO
            parts.append(f"balance fell by ${money_text(fell)}, ledger has ${money_text(ours)}")
        return " · ".join(["1 attempt" if sums.attempts == 1 else f"{sums.attempts:,} attempts", *parts])

    def for_json(self) -> dict[str, Any]:
        """Return the report as plain JSON, with money as strings."""
        return {
            **self.model_dump(mode="json", exclude={"groups"}),
            "groups": [{**group._asdict(), **sums.model_dump(mode="json")} for group, sums in self.groups],
            "limits": [usage.for_json() for usage in self.limits],
            "totals": self.totals.model_dump(mode="json"),
            "differs": self.differs,
        }


def _group(attempt: AttemptRow) -> Group:
    return Group(
        day=attempt.day.isoformat(),
        mode=attempt.mode_and_duration,
        folder=attempt.folder,
        label=attempt.label or "",
        outcome=attempt.outcome,
    )


def _day(moment: datetime) -> str:
    return moment.astimezone(UTC).date().isoformat()


def month_days(until: datetime) -> list[str]:
    """Return the `MONTH_DAYS` UTC days up to `until`, oldest first."""
    return [_day(until - timedelta(days=back)) for back in range(MONTH_DAYS - 1, -1, -1)]


async def sum_spend(
    storage: Storage, settings: Settings, *, days: int, client: ApixoClient | None = None
) -> SpendReport:
    """Sum the last `days` times 24 hours; with a `client`, compare with the balance since the last report.

    A record that cannot be read is logged and left out.
    """
    now = datetime.now(UTC)
    last = await read_if_valid(storage, BalanceSnapshot, keys.spend_uri(settings))
    window = SpendWindow(now - timedelta(days=days))
    month = SpendWindow(datetime.fromisoformat(f"{month_days(now)[0]}T00:00Z"))
    since_last = SpendWindow(last.at if last and client else now)
    await _read(storage, settings, (window, month, since_last))
    report = SpendReport(
        since=window.since,
        until=now,
        groups=window.groups,
        month=month.groups,
        at_risk=month.at_risk,
        limits=await read_usage(storage, settings),
    )
    balance = await _balance(client)
    if balance is None:
        return report
    body = BalanceSnapshot(at=now, balance_usd=balance).model_dump_json(indent=1).encode()
    await storage.put(keys.spend_uri(settings), body, content_type="application/json")
    changes: dict[str, Decimal] = {"balance_usd": balance}
    if last:
        changes["balance_fell_usd"] = last.balance_usd - balance
        changes["ledger_since_last_usd"] = sum_groups(since_last.groups).total_usd
    return report.model_copy(update=changes)


async def _read(storage: Storage, settings: Settings, windows: Sequence[SpendWindow]) -> None:
    first = min(window.since for window in windows)
    async for attempt in attempts_since(Ledger(storage, settings), first):
        for window in windows:
            window.add_attempt(attempt)
    async for run in read_savings(storage, settings, since=first - CLOCK_SLACK):
        for window in windows:
            window.add_savings(run)


async def _balance(client: ApixoClient | None) -> Decimal | None:
    try:
        return await client.balance() if client else None
    except ProviderError as error:
        log.warning("the provider did not return its balance: %s", error)
        return None
