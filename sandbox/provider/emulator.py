"""The emulator's state and what moves it: `Emulator` takes orders, bills them, and brings each task to its end.

Everything here runs on the emulator's own loop. HTTP is in `routes`, threads are in `server`.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from pathlib import Path
from typing import Any

import httpx

from sandbox.provider.billing import Account, RateLimit
from sandbox.provider.callback_sender import CallbackSender
from sandbox.provider.contract import ApiError, SubmitRequest
from sandbox.provider.faults import ScriptedFaults
from sandbox.provider.input_images import ImageError, check_image, fetch_image
from sandbox.provider.options import ProviderOptions
from sandbox.provider.renderer import Renderer
from sandbox.provider.request_log import LogEntry, RequestLog
from sandbox.provider.result_urls import ResultUrls
from sandbox.provider.tasks import Task
from sandbox.provider.video_maker import VideoSpec

FETCHERS = 16
"""Images fetched at once."""
FOREVER = 10**9


class Emulator:
    """One provider: its account, its tasks, its journal, its faults."""

    def __init__(self, dials: ProviderOptions, base_url: str, folder: Path) -> None:
        self.studio = Renderer(folder)
        self.request_log = RequestLog()
        self._links = ResultUrls(base_url)
        self._first = dials
        self._good: set[str] = set()
        self._fetchers = asyncio.Semaphore(FETCHERS)
        self._client = httpx.AsyncClient(limits=httpx.Limits(max_connections=FETCHERS), trust_env=False)
        self._courier = CallbackSender(self.request_log, lambda: self.options)
        self._begin(dials)

    def _begin(self, dials: ProviderOptions) -> None:
        self.options = dials
        self.bank = Account(dials.balance_usd)
        self.pace = RateLimit()
        self.faults = ScriptedFaults()
        self.tasks: dict[str, Task] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._dice = random.Random(dials.seed)  # noqa: S311 - jitter that can be repeated

    def turn(self, changes: dict[str, Any]) -> ProviderOptions:
        """Change dials; `balance_usd` also sets what is on the account.

        Raises:
            ValueError: no such dial, or not such a value.
        """
        self.options = ProviderOptions.model_validate({**self.options.model_dump(), **changes})
        if "balance_usd" in changes:
            self.bank.balance_usd = self.options.balance_usd
        return self.options

    async def reset(self) -> None:
        """Forget tasks, journal, bills, faults and changed dials; made films stay.

        Raises:
            RuntimeError: a task ended by a mistake of the emulator itself, so nothing it told can be trusted.
        """
        broken = await self._end_lives()
        self.request_log.clear()
        self._begin(self._first)
        if broken:
            raise RuntimeError(f"the emulator itself broke: {broken[0]!r}") from broken[0]

    async def close(self) -> None:
        """Stop all that goes on."""
        await self._end_lives()
        await self._client.aclose()
        await self._courier.close()
        await asyncio.to_thread(self.studio.close)

    async def _end_lives(self) -> list[Exception]:
        """End all tasks; returns what they should never have raised."""
        for life in self._lives.values():
            life.cancel()
        ends = await asyncio.gather(*self._lives.values(), return_exceptions=True)
        return [end for end in ends if isinstance(end, Exception)]

    def accept(self, order: SubmitRequest) -> Task:
        """Bill an order and begin its task.

        Raises:
            Refusal: 402 or 429.
        """
        self._admit()
        self.bank.charge(order.price_usd)
        jitter = self._dice.uniform(-self.options.render_jitter, self.options.render_jitter)
        task = Task(order, order.price_usd, due=time.time() + self.options.render_seconds * (1 + jitter))
        task.fault = self.faults.strike(task.visit("task"))
        self.tasks[task.id] = task
        self._lives[task.id] = asyncio.create_task(self._live(task))
        return task

    def _admit(self) -> None:
        limit = self.options.running_limit
        if limit is not None and sum(task.state == "processing" for task in self.tasks.values()) >= limit:
            raise ApiError(429, "too many tasks are running", self.options.retry_after)

    async def ended(self, task_id: str | None) -> None:
        """Wait until a task has ended and its callback was delivered or given up."""
        life = self._lives.get(task_id or "")
        if life is not None:
            await asyncio.shield(life)

    def result_url(self, task: Task, *, over: bool = False) -> str:
        """A fresh link to the task's file, or one that is already over."""
        return self._links.make(task.id, -1 if over else self.options.url_seconds)

    def may_fetch(self, task: Task, expires: str, signature: str) -> bool:
        """Whether a link is ours and not over."""
        return self._links.is_alive(task.id, expires, signature)

    async def _live(self, task: Task) -> None:
        try:
            task.succeed(await self._film(task))
        except ImageError as error:
            task.fail(error.code, error.message)
        except OSError as error:
            task.fail("GENERATION_FAILED", type(error).__name__)
        if task.state == "failed" and not self.options.bill_failed:
            self.bank.refund(task.billed_usd)
            task.billed_usd -= task.billed_usd
        if task.request.callback_url:
            fault = self.faults.strike(task.visit("callback"))
            await self._courier.deliver(task, task.status_body(self.result_url(task)), fault)

    async def _film(self, task: Task) -> Path:
        image = await self._image(task)
        kind = task.fault.kind if task.fault else ""
        if task.fault and kind == "fails":
            await asyncio.sleep(task.due - time.time())
            code = task.fault.code or "Unknown error"
            raise ImageError(code, task.fault.message or code)
        film = await self.studio.film(image, self._reel(task), shared=self.options.render == "shared")
        await asyncio.sleep(FOREVER if kind == "stuck" else task.due - time.time())
        return film

    def _reel(self, task: Task) -> VideoSpec:
        short_side, seconds = task.request.short_side, task.request.seconds
        if task.fault and task.fault.kind == "wrong_size":
            short_side = task.fault.pixels
        if task.fault and task.fault.kind == "wrong_length":
            seconds = round(task.fault.seconds or 3)
        return VideoSpec(short_side, seconds, self.options.fast)

    async def _image(self, task: Task) -> bytes:
        entry = LogEntry("image", "GET", task.request.image_url.split("?")[0], task_id=task.id)
        self.request_log.entries.append(entry)
        try:
            image = await self._fetch(task, entry)
            entry.image_sha256 = task.image_sha256 = hashlib.sha256(image).hexdigest()
            if task.image_sha256 not in self._good:
                await asyncio.to_thread(check_image, image)
                self._good.add(task.image_sha256)
        except ImageError as error:
            entry.outcome = error.code
            raise
        finally:
            task.fetched = True
            entry.seconds = time.time() - entry.at
        entry.outcome = "200"
        return image

    async def _fetch(self, task: Task, entry: LogEntry) -> bytes:
        fault = self.faults.strike(task.visit("image"))
        entry.fault = fault.kind if fault else ""
        if fault and fault.kind == "fails":
            code = fault.code or "IMAGE_DOWNLOAD_FAILED"
            raise ImageError(code, fault.message or code)
        if fault and fault.kind == "late":
            await asyncio.sleep(fault.seconds or 1)
        async with self._fetchers:
            return await fetch_image(self._client, task.request.image_url, self.options.s3_address)
