"""The gate in front of the provider: `AdaptiveLimiter`, how many requests may be under way at once.

It is no wider than the client's pool, whose cost is quadratic in waiting requests, and grows narrower where the
provider answers 429. Waiting here costs one future. Nothing in it knows HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

SETTLE_SECONDS = 1.0
"""Refusals this close together come from one burst and halve the gate once."""


class AdaptiveLimiter:
    """At most `width` inside, first come first served: `async with gate:`. Belongs to one event loop.

    Args:
        width: how many may be inside when nothing is wrong.
        settle_seconds: the least time between two halvings.
        clock: seconds that only grow.
    """

    def __init__(
        self, width: int, *, settle_seconds: float = SETTLE_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if width < 1:
            raise ValueError(f"a gate of width {width} lets nobody in")
        self.width = width
        self._allowed = float(width)
        self._inside = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._settle_seconds = settle_seconds
        self._clock = clock
        self._slowed_at = float("-inf")

    @property
    def allowed(self) -> int:
        """How many may be inside now: from 1 to `width`."""
        return int(self._allowed)

    @property
    def inside(self) -> int:
        """How many are inside now."""
        return self._inside

    def slow_down(self) -> None:
        """Halve what is allowed, at least to 1; once only for refusals that come in one burst."""
        now = self._clock()
        if now - self._slowed_at >= self._settle_seconds:
            self._slowed_at = now
            self._allowed = float(max(1, self.allowed // 2))

    def recover(self) -> None:
        """Count a success: as many successes as are allowed inside allow one more, up to the full width."""
        if self._allowed < self.width:
            # rounded, so that ten tenths make one
            self._allowed = min(float(self.width), round(self._allowed + 1 / self.allowed, 9))
            self._admit()

    async def __aenter__(self) -> Self:
        if self._inside < self.allowed:  # then nobody waits: each change below admits all it can
            self._inside += 1
            return self
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # cancelled just after its turn came: pass the place on
                self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        self._inside -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiters and self._inside < self.allowed:
            turn = self._waiters.popleft()
            if not turn.done():  # else its waiter was cancelled
                self._inside += 1
                turn.set_result(None)
