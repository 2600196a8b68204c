"""The brake of a run: it stops submits. Jobs that are submitted already are still waited for.

Add a reason to stop here. Limits on money are in `i2v.ledger.budget`.
"""

import asyncio
import logging
from contextlib import suppress

from i2v.advised_commands import command
from i2v.errors import NotTried
from i2v.ledger.attempt import Reason

log = logging.getLogger(__name__)
STOPPED, LIMIT = "stopped", "limit"
"""Codes of a run that stopped before its first submit; `LIMIT` because of a spending limit."""
INTERRUPTED = "interrupted"
"""The code of a run that a person or Prefect interrupted."""
STREAK = 3
"""This many lost answers, or images that the provider could not fetch, in a row stop the submits of a run."""


class Brake:
    """Stops the submits of one run, or on an interrupt also its waits."""

    def __init__(self) -> None:
        self.stopped: Reason | None = None
        self._interrupted = asyncio.Event()
        self._lost_answers = 0
        self._failed_fetches = 0

    def stop(self, code: str, message: str) -> None:
        """Submit nothing more; the first reason stays."""
        if self.stopped is None:
            self.stopped = Reason(code=code, message=message)
            log.log(logging.DEBUG if code == "ended" else logging.WARNING, "no more submits: %s", message)

    def interrupt(self) -> None:
        """Submit nothing more, and stop waiting for what is submitted."""
        self.stop(INTERRUPTED, "interrupted")
        self._interrupted.set()

    @property
    def interrupted(self) -> bool:
        """Whether a person or Prefect has interrupted the run."""
        return self._interrupted.is_set()

    def check_submit(self) -> None:
        """Raise `NotTried` if the run may submit nothing more."""
        if self.stopped:
            raise NotTried(f"Not submitted: {self.stopped.message}")

    def check_interrupt(self) -> None:
        """Raise `NotTried` if the run is interrupted."""
        if self.interrupted:
            raise NotTried("Interrupted before this image was checked")

    def count_lost_answer(self) -> None:
        """Count a submit whose answer was lost; three in a row stop the run."""
        self._lost_answers += 1
        if self._lost_answers >= STREAK:
            self.stop("unknowns", "three answers in a row were lost: check the provider and the network")

    def count_answer(self) -> None:
        """Count a submit that was answered."""
        self._lost_answers = 0

    def count_failed_fetch(self) -> None:
        """Count an image that the provider could not fetch; three in a row stop the run."""
        self._failed_fetches += 1
        if self._failed_fetches >= STREAK:
            doctor = command("doctor")
            message = (
                f"the provider could not fetch three images in a row: can it reach the bucket? Check with: {doctor}"
            )
            self.stop("unfetched", message)

    def count_fetch(self) -> None:
        """Count an image that the provider has fetched."""
        self._failed_fetches = 0

    async def sleep(self, seconds: float) -> None:
        """Wait; return early once the run is interrupted."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for would create a task per wait, a thousand at once
                await self._interrupted.wait()
