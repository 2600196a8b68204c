"""Reservations of processes that died before they paid: `AbandonedReservations` finds those that no longer count.

The job's record tells: a claim in it was charged or was not. Without a claim, a reservation counts while its process
may still be about to make one.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Literal

from i2v.errors import I2vError
from i2v.ledger.day_spend import DaySpend, Reservation
from i2v.ledger.documents import Document

ClaimState = Literal["absent", "free", "counts"]
"""What a job's record tells of a claim: it has none, it was not charged, or it was or may be charged."""
ReadClaim = Callable[[str, str], Awaitable[ClaimState]]
"""Takes a job key and a claim; reads the job's record."""
CLOCKS = 5
"""By the hosts' clocks instead of S3's, a reservation must be this many times as old."""


class AbandonedReservations:
    """Looks at the reservations of all processes but one's own.

    Args:
        read_claim: tells what became of a reservation.
        own_entry: the entry of this process.
        after_seconds: how long after its reservation a process may still make a claim.
    """

    def __init__(self, read_claim: ReadClaim, own_entry: str, after_seconds: float) -> None:
        self._read_claim = read_claim
        self._own_entry = own_entry
        self._after_seconds = after_seconds
        self._over: set[str] = set()
        """Claims that were found too old. The day's age starts again at each write, their end does not."""

    async def left_out(self, known: Document[DaySpend]) -> DaySpend:
        """Return the document without the reservations that were not paid and cannot be any more."""
        entries = dict(known.content.entries)
        for name, entry in known.content.entries.items():
            for claim, one in entry.reserved.items() if name != self._own_entry else ():
                if await self._is_abandoned(claim, one, known):
                    entries[name] = entries[name].without(claim)
        return known.content.model_copy(update={"entries": entries})

    async def has_unclear(self, known: Document[DaySpend], run_id: str) -> bool:
        """Return whether another process of this run, if it still lives, may be about to claim what it reserved."""
        for name, entry in known.content.entries.items():
            is_other = entry.run_id == run_id and name != self._own_entry
            for claim, one in entry.reserved.items() if is_other else ():
                if not self._is_over(claim, one, known) and await self._state(claim, one) == "absent":
                    return True
        return False

    async def _is_abandoned(self, claim: str, one: Reservation, known: Document[DaySpend]) -> bool:
        state = await self._state(claim, one)
        return state == "free" or (state == "absent" and self._is_over(claim, one, known))

    async def _state(self, claim: str, one: Reservation) -> ClaimState:
        """Return what became of a reservation; one whose job cannot be read counts, and stops no other."""
        try:
            return await self._read_claim(one.job, claim)
        except I2vError:
            return "counts"

    def _is_over(self, claim: str, one: Reservation, known: Document[DaySpend]) -> bool:
        """Return whether a reservation is too old to be sent: by S3's clock, or by ours with a wide margin."""
        by_host = (datetime.now(UTC) - one.at).total_seconds()
        if known.age_seconds > self._after_seconds or by_host > CLOCKS * self._after_seconds:
            self._over.add(claim)
        return claim in self._over
