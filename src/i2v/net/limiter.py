"""A limit on concurrent requests that adapts to the provider's 429 responses: `AdaptiveLimiter`.

Its width is at most the size of the HTTP client's pool, whose cost grows with the square of the waiting requests. A
waiter here costs one future. Keep HTTP out.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Self

BURST_SECONDS = 1.0
"""429 responses within this time count as one burst and halve the limit once."""


class AdaptiveLimiter:
    """Admit at most `width` requests at a time, in order of arrival: `async with limiter:`.

    Belongs to one event loop. `clock` is a monotonic clock in seconds.
    """

    def __init__(self, width: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        if width < 1:
            raise ValueError(f"width must be at least 1, not {width}")
        self.width = width
        self._allowed = float(width)
        self._inside = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._clock = clock
        self._slowed_at = float("-inf")

    @property
    def allowed(self) -> int:
        """The current limit, from 1 to `width`."""
        return int(self._allowed)

    @property
    def inside(self) -> int:
        """The number currently admitted."""
        return self._inside

    def slow_down(self) -> None:
        """Halve the limit, to 1 at least; do so once per burst."""
        now = self._clock()
        if now - self._slowed_at >= BURST_SECONDS:
            self._slowed_at = now
            self._allowed = float(max(1, self.allowed // 2))

    def recover(self) -> None:
        """Count a success. As many successes as the limit raise it by one, up to `width`."""
        if self._allowed < self.width:
            # rounded, so that ten tenths make one
            self._allowed = min(float(self.width), round(self._allowed + 1 / self.allowed, 9))
            self._admit()

    async def __aenter__(self) -> Self:
        if self._inside < self.allowed:  # there are no waiters then: every change admits all it can
            self._inside += 1
            return self
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # admitted and cancelled in one loop iteration
                self._leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._inside -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiters and self._inside < self.allowed:
            turn = self._waiters.popleft()
            if not turn.done():  # a cancelled waiter is done
                self._inside += 1
                turn.set_result(None)
