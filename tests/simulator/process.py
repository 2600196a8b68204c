"""A simulated process: it works, and is killed, frozen or asked to stop at a moment that was drawn before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from i2v.errors import I2vError
from tests.simulator.models.bucket import SimulatedStorage
from tests.simulator.models.clients import SimulatedClient, SimulatedFetcher
from tests.simulator.virtual_time import OWNER

if TYPE_CHECKING:
    from i2v.pipeline.context import RunContext
    from i2v.reports.run_report import Report
    from tests.simulator.world import World


@dataclass(frozen=True, slots=True)
class Mishap:
    """What befalls a process at one of its requests.

    Attributes:
        what: kill; freeze for `seconds`; SIGTERM, and a kill `seconds` later if it still runs then.
        number: at which of its requests, counting only those of this `kind`.
        after: once the request has been done, and not before it is sent.
    """

    what: Literal["kill", "freeze", "term"]
    number: int
    kind: str = ""
    after: bool = False
    seconds: float = 0.0


class Process:
    """One process of i2v. `ended` is set once it has ended by itself; a killed one only is `dead`."""

    def __init__(
        self,
        world: World,
        name: str,
        run_id: str,
        work: Callable[[Process], Awaitable[None]],
        *,
        skew: float = 0.0,
        mishaps: Sequence[Mishap] = (),
    ) -> None:
        self.world = world
        self.name = name
        self.run_id = run_id
        self.skew = skew
        self._mishaps = {mishap: mishap.number for mishap in mishaps}
        """What will befall it, and at how many more requests."""
        self.frozen = False
        self.backlog: list[asyncio.Handle] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.dead = False
        self.ended = False
        self.terminated_at: float | None = None
        self.run: RunContext | None = None
        self.report: Report | None = None
        self.images: tuple[str, ...] = ()
        self.named: frozenset[str] = frozenset()
        """The images that a person named, and not a prefix."""
        self.names: dict[str, str] = {}
        """Which image it paid for would be published under each name."""
        self.max_spend: Any = None
        self.label = ""
        self.error: BaseException | None = None
        self.received: list[str] = []
        """Task ids that its submits returned."""
        self.requests = 0
        self.storage = SimulatedStorage(world, self)
        self.client = SimulatedClient(world, self)
        self.fetcher = SimulatedFetcher(world, self)
        self._work = work
        token = OWNER.set(self)
        self.task = world.loop.create_task(self._live())
        OWNER.reset(token)

    @property
    def over(self) -> bool:
        """Whether it will do nothing more."""
        return self.dead or self.ended

    async def _live(self) -> None:
        try:
            with suppress(I2vError):
                await self._do()
        except asyncio.CancelledError as error:
            self.error = error
            if not self.dead and self.terminated_at is None:
                self.world.accuse("no end", f"{self.name} was cancelled by nobody")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no end that i2v promises
            self.error = error
            self.world.accuse("internal error", f"{self.name} ended with {error!r}")
        if not self.dead:
            self.ended = True
            self.world.has_ended(self)

    async def _do(self) -> None:
        try:
            await self._work(self)
        except I2vError as error:
            self.error = error
            raise

    async def about_to(self, kind: str, key: str) -> None:
        """Note a request before it is sent; it may never be."""
        if self.dead:
            raise asyncio.CancelledError
        self.requests += 1
        if self._strikes(kind, key, after=False):
            if self.dead:
                raise asyncio.CancelledError
            await asyncio.sleep(0)

    def has_done(self, kind: str, key: str) -> None:
        """Note a request that has been done but not answered yet."""
        if not self.over:
            self._strikes(kind, key, after=True)

    def _strikes(self, kind: str, key: str, *, after: bool) -> bool:
        """Let what is due befall the process; return whether anything was."""
        due = [one for one in self._mishaps if one.after == after and one.kind in {"", kind}]
        for mishap in due:
            self._mishaps[mishap] -= 1
            if not self._mishaps[mishap]:
                self._befall(mishap, f"{'after' if after else 'before'} {kind} {key[:60]}")
        return bool(due)

    def _befall(self, mishap: Mishap, where: str) -> None:
        self.world.count(f"process: {mishap.what}")
        self.world.tell(self.name, f"{mishap.what} {where}" + (f" ({mishap.seconds:.0f} s)" if mishap.seconds else ""))
        if mishap.what == "kill":
            self.kill()
        elif mishap.what == "freeze":
            self.freeze(mishap.seconds)
        else:
            self.terminate(mishap.seconds)

    def spare(self) -> None:
        """Let nothing befall it any more."""
        self._mishaps.clear()

    def kill(self) -> None:
        """End it as kill -9 does: no request leaves it any more."""
        if self.over:
            return
        self.dead = True
        if self.frozen:
            self.world.loop.thaw(self)
        for task in self.tasks:
            task.cancel()
        self.world.has_ended(self)

    def freeze(self, seconds: float) -> None:
        """Stop it for a while, as SIGSTOP does."""
        if self.frozen or self.over:
            return
        self.frozen = True
        self.world.has_frozen(self, seconds)
        self.world.loop.call_later(seconds, self.thaw)

    def thaw(self) -> None:
        """Let it continue."""
        if self.frozen:
            self.world.tell(self.name, "continues")
            self.world.loop.thaw(self)

    def terminate(self, kill_after: float) -> None:
        """Ask it to stop, as SIGTERM does; kill it if it does not."""
        if self.over or self.terminated_at is not None:
            return
        self.terminated_at = self.world.loop.time()
        if self.run:
            self.run.brake.interrupt()
        else:
            self.task.cancel()
        self.world.loop.call_later(kill_after, self.kill_if_running)

    def kill_if_running(self) -> None:
        """Kill it, unless it has ended."""
        if not self.over:
            self.world.tell(self.name, "killed after SIGTERM")
            self.kill()
