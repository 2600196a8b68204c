"""Reservations of processes that died before they paid: `AbandonedReservations` finds those that no longer count.

A claim in the job's record shows whether it was charged. Without a claim, a reservation counts while its process may
still make one, even a process of the same run: it may be frozen, not dead.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Literal

from i2v.clock import boot_time
from i2v.errors import I2vError
from i2v.ledger.day_spend import DaySpend, Reservation
from i2v.ledger.documents import Document

ClaimState = Literal["absent", "free", "counts"]
"""What a job's record shows of a claim: it is not there, it was not charged, or it was charged or possibly charged."""
ReadClaim = Callable[[str, str], Awaitable[ClaimState]]
"""Takes a job key and a claim; reads the job's record."""
HOST_CLOCK_MARGIN = 5
"""Judged by the host's clock instead of S3's, a reservation must be this many times older."""


class AbandonedReservations:
    """Looks at the reservations of all processes but the one with `own_entry`.

    `after_seconds` is how long after its reservation a process may still send its submit.
    """

    def __init__(self, read_claim: ReadClaim, own_entry: str, after_seconds: float) -> None:
        self._read_claim = read_claim
        self._own_entry = own_entry
        self._after_seconds = after_seconds
        self._first_seen: dict[str, float] = {}
        """By claim. Each write of the day makes its document young again, so its age alone would decide too late."""

    async def left_out(self, known: Document[DaySpend]) -> DaySpend:
        """Return the document without the reservations that were not paid and cannot be any more."""
        entries = dict(known.content.entries)
        for name, entry in known.content.entries.items():
            for claim, one in entry.reserved.items() if name != self._own_entry else ():
                is_over = self._is_over(claim, one, known)  # before the record is read: it may be claimed until then
                state = await self._state(claim, one)
                if state == "free" or (state == "absent" and is_over):
                    entries[name] = entries[name].without(claim)
        return known.content.model_copy(update={"entries": entries})

    async def has_unclear(self, known: Document[DaySpend], run_id: str | None = None) -> bool:
        """Return whether another process, of this run if given, may be about to claim what it reserved."""
        for name, entry in known.content.entries.items():
            is_other = run_id in {None, entry.run_id} and name != self._own_entry
            for claim, one in entry.reserved.items() if is_other else ():
                if not self._is_over(claim, one, known) and await self._state(claim, one) == "absent":
                    return True
        return False

    async def _state(self, claim: str, one: Reservation) -> ClaimState:
        """Return what became of a reservation; one whose job cannot be read counts, and stops no other."""
        try:
            return await self._read_claim(one.job, claim)
        except I2vError:
            return "counts"

    def _is_over(self, claim: str, one: Reservation, known: Document[DaySpend]) -> bool:
        """Return whether a reservation is too old to be sent: by S3's clock, by ours, or since this process saw it."""
        by_host = (datetime.now(UTC) - one.at).total_seconds()
        if known.age_seconds > self._after_seconds or by_host > HOST_CLOCK_MARGIN * self._after_seconds:
            self._first_seen[claim] = float("-inf")
        return boot_time() - self._first_seen.setdefault(claim, boot_time()) > self._after_seconds
