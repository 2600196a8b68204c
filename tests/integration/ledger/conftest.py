"""Budgets over the sandbox's S3 and over a bucket in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from i2v.ledger.abandoned_reservations import ClaimState
from i2v.ledger.budget import Budget
from i2v.ledger.day_spend import DaySpendStore
from i2v.ledger.ledger import Ledger
from i2v.s3.storage import Storage
from i2v.settings import Settings
from i2v.spending_limits import RunLimits, all_limits
from tests.support.settings import SealedSettings

MakeBudget = Callable[..., Budget]
ABANDONED_AFTER = 60.0
MEMORY_SETTINGS = SealedSettings(I2V_BUCKET="b-1")


class Claims:
    """What the job records tell of the claims: `states` by claim, else `others`."""

    def __init__(self) -> None:
        self.states: dict[str, ClaimState | Exception] = {}
        self.others: ClaimState = "absent"

    async def read(self, job: str, claim: str) -> ClaimState:
        """Return the state of a claim, or raise what is set."""
        del job
        state = self.states.get(claim, self.others)
        if isinstance(state, Exception):
            raise state
        return state


@pytest.fixture
def claims() -> Claims:
    """What the budgets of this test read of claims."""
    return Claims()


@pytest.fixture
def storage(aws: None) -> Iterator[Storage]:
    """The sandbox's S3."""
    with Storage() as opened:
        yield opened


@pytest.fixture
def ledger(storage: Storage, settings: Settings) -> Ledger:
    """An empty ledger in it."""
    return Ledger(storage, settings)


@pytest.fixture
def store(storage: Storage, settings: Settings) -> DaySpendStore:
    """The days of that ledger."""
    return DaySpendStore(storage, settings)


def make_budget(
    store: DaySpendStore, claims: Claims, run_id: str, limit: str | None = None, cap: str | None = None, **more: Any
) -> Budget:
    """Return the budget of one process of a run."""
    limits = RunLimits("", all_limits({}, None if cap is None else Decimal(cap)))
    values = {"abandoned_after": ABANDONED_AFTER, "read_claim": claims.read, "limits": limits, **more}
    return Budget(store, run_id, max_spend_usd=None if limit is None else Decimal(limit), **values)


@pytest.fixture
def budget(store: DaySpendStore, claims: Claims) -> MakeBudget:
    """Return a process's budget: `budget("run-1", limit="5", cap="10")`."""

    def make(run_id: str = "run-1", **more: Any) -> Budget:
        return make_budget(store, claims, run_id, **more)

    return make


@pytest.fixture
def memory_budget(claims: Claims) -> MakeBudget:
    """Return a process's budget in memory: `memory_budget(storage, "run-1", cap="10")`."""

    def make(storage: Storage, run_id: str = "run-1", **more: Any) -> Budget:
        return make_budget(DaySpendStore(storage, MEMORY_SETTINGS), claims, run_id, **more)

    return make


async def reserved(store: DaySpendStore, day: str, run_id: str | None = None) -> Decimal:
    """Return what is paid or reserved on a day, by all runs or by the processes of one."""
    entries = (await store.read(day)).content.entries.values()
    return sum((one.total_usd for one in entries if run_id in {None, one.run_id}), Decimal(0))
