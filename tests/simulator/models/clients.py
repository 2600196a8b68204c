"""What one process uses to reach the outside: the provider's client and the downloads, over the models."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextvars import ContextVar
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from i2v.apixo.models import SubmitBody, TaskStatus
from i2v.errors import AccountRejected, AnswerLost, BadAnswer, Busy, FetchError, NothingSent, ProviderError
from i2v.net.fetcher import FetchedFile
from i2v.net.limiter import AdaptiveLimiter
from tests.simulator.models.provider import copied, price_of
from tests.simulator.patches import BROKEN_VIDEO

if TYPE_CHECKING:
    from tests.simulator.process import Process
    from tests.simulator.world import World

ORDERED: ContextVar[str] = ContextVar("ordered", default="")
"""The key of the job that is being submitted."""
STATUS_ERRORS: tuple[ProviderError, ...] = (
    BadAnswer("GET: 500", code="500", status=500),
    Busy("GET: 429", code="429", status=429),
    NothingSent("GET: no connection", code="ConnectError"),
    BadAnswer("GET: timeout", code="TimeoutError"),
    AccountRejected("GET: 401", code="401", status=401),
)


class SimulatedClient:
    """The provider's client of one process, with the interface of `ApixoClient`."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self.limiter = AdaptiveLimiter(world.settings.max_connections, clock=world.loop.time)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def submit(
        self,
        body: SubmitBody,
        *,
        timeout: float = 120.0,  # noqa: ASYNC109 - as there
        before_send: Callable[[], None] | None = None,
    ) -> str:
        """Send one POST, as `ApixoClient.submit` does."""
        key, weather = ORDERED.get(), self._world.weather
        await self._process.about_to("POST", key)
        fault, post = weather.submit_fault(), None
        try:
            async with asyncio.timeout(timeout):
                await asyncio.sleep(weather.between(0.005, 0.3))
                if fault == "no connection":
                    self._world.count("POST no connection")
                    raise NothingSent("POST: no connection", code="ConnectError")
                if self._process.dead:
                    raise asyncio.CancelledError
                if before_send:
                    before_send()
                post, answer = self._world.provider.receive(self._process, body, key, fault)
                task_id = await answer
        except TimeoutError:
            if post:
                post.is_exposed = True
            else:
                self._world.provider.never_sent_usd[self._process.run_id] += price_of(body)
            raise AnswerLost("POST: timeout", code="TimeoutError") from None
        self._process.received.append(task_id)
        self.limiter.recover()
        return task_id

    async def status(self, task_id: str, **_: Any) -> TaskStatus:
        """Request a task's status; what fails here has failed in all retries."""
        await self._process.about_to("status", task_id)
        async with self.limiter:
            weather = self._world.weather
            await asyncio.sleep(weather.between(0.01, 0.3))
            if weather.happens(weather.status_rate, "status failed"):
                await asyncio.sleep(weather.between(0, 60))
                raise copied(self._world.chance.choice(STATUS_ERRORS))
            if self._process.dead:
                raise asyncio.CancelledError
            return self._world.provider.status(task_id)

    async def balance(self, **_: Any) -> Decimal:
        """Request the balance."""
        await self._process.about_to("balance", "")
        async with self.limiter:
            await asyncio.sleep(self._world.weather.between(0.01, 0.3))
            if self._world.weather.happens(self._world.weather.status_rate, "balance failed"):
                raise BadAnswer("GET: no balance", code="500", status=500)
            return self._world.provider.balance


class SimulatedFetcher:
    """The downloads of one process, with the interface of `Fetcher`."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def fetch_first_byte(self, url: str, **_: Any) -> SimpleNamespace:
        """Request one byte of a presigned URL; what it finds is what `FirstByte` has."""
        await self._process.about_to("download", url)
        weather = self._world.weather
        await asyncio.sleep(weather.between(0.01, 0.5))
        found = self._world.bucket.find(urlsplit(url).path.lstrip("/"))
        if weather.happens(weather.file_rate, "download failed"):
            raise FetchError(f"{url} returned nothing")
        status, size, code = (206, found.size, "") if found else (404, None, "NoSuchKey")
        return SimpleNamespace(status=status, location=None, content_type="image/jpeg", size=size, code=code)

    async def fetch_file(self, url: str, path: Path, *, limit: int) -> FetchedFile:
        """Download a video."""
        await self._process.about_to("download", url)
        weather = self._world.weather
        await asyncio.sleep(weather.between(0.1, 20))
        task = self._world.provider.tasks[url.rpartition("/")[2]]
        if weather.happens(weather.file_rate, "download failed"):
            raise FetchError(f"{url} returned 503", status=503)
        body = f"video of {task.id}".encode()
        if task.is_broken and not self._world.is_calm and weather.happens(0.7, "download broken"):
            body = BROKEN_VIDEO + self._world.chance.randbytes(4)
        elif task.is_damaged:
            body = BROKEN_VIDEO + f" of {task.id}".encode()
        path.write_bytes(body)  # noqa: ASYNC240 - a few bytes
        return FetchedFile(len(body), hashlib.sha256(body).hexdigest(), "video/mp4")
