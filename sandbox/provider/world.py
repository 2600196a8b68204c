"""The emulator's state and what moves it: `World` takes orders, bills them, and brings each task to its end.

Everything here runs on the emulator's own loop. HTTP is in `routes`, threads are in `server`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
import secrets
import time
from pathlib import Path
from typing import Any

import httpx

from sandbox.provider.bank import Bank, Pace
from sandbox.provider.contract import Order, Refusal
from sandbox.provider.dials import Dials
from sandbox.provider.film import Reel
from sandbox.provider.images import ImageFault, check_image, fetch_image
from sandbox.provider.journal import Entry, Journal
from sandbox.provider.studio import Studio
from sandbox.provider.tasks import Task

FETCHERS = 16
"""Images fetched at once."""


class World:
    """One provider: its account, its tasks, its journal."""

    def __init__(self, dials: Dials, base_url: str, folder: Path) -> None:
        self.base_url = base_url
        self.studio = Studio(folder)
        self.journal = Journal()
        self._first = dials
        self._secret = secrets.token_bytes(16)
        self._lives: set[asyncio.Task[None]] = set()
        self._fetchers = asyncio.Semaphore(FETCHERS)
        self._client = httpx.AsyncClient(limits=httpx.Limits(max_connections=FETCHERS), trust_env=False)
        self._begin(dials)

    def _begin(self, dials: Dials) -> None:
        self.dials = dials
        self.bank = Bank(dials.balance_usd)
        self.pace = Pace()
        self.tasks: dict[str, Task] = {}
        self._dice = random.Random(dials.seed)  # noqa: S311 - jitter that can be repeated

    def turn(self, changes: dict[str, Any]) -> Dials:
        """Change dials; `balance_usd` also sets what is on the account.

        Raises:
            ValueError: no such dial, or not such a value.
        """
        self.dials = Dials.model_validate({**self.dials.model_dump(), **changes})
        if "balance_usd" in changes:
            self.bank.balance_usd = self.dials.balance_usd
        return self.dials

    async def reset(self) -> None:
        """Forget tasks, journal, bills and changed dials; made films stay."""
        await self._end_lives()
        self.journal.clear()
        self._begin(self._first)

    async def close(self) -> None:
        """Stop all that goes on."""
        await self._end_lives()
        await self._client.aclose()
        self.studio.close()

    async def _end_lives(self) -> None:
        lives = list(self._lives)
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)

    def accept(self, order: Order) -> Task:
        """Bill an order and begin its task.

        Raises:
            Refusal: 402 or 429.
        """
        running = sum(task.state == "processing" for task in self.tasks.values()) if self._limited else 0
        if self.dials.running_limit is not None and running >= self.dials.running_limit:
            raise Refusal(429, "too many tasks are running", self.dials.retry_after)
        self.bank.charge(order.price_usd)
        jitter = self._dice.uniform(-self.dials.render_jitter, self.dials.render_jitter)
        task = Task(order, order.price_usd, due=time.time() + self.dials.render_seconds * (1 + jitter))
        self.tasks[task.id] = task
        life = asyncio.create_task(self._live(task))
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        return task

    @property
    def _limited(self) -> bool:
        return self.dials.running_limit is not None

    async def _live(self, task: Task) -> None:
        try:
            image = await self._image(task)
            reel = Reel(task.order.short_side, task.order.seconds, self.dials.fast)
            film = await self.studio.film(image, reel, shared=self.dials.render == "shared")
            await asyncio.sleep(task.due - time.time())
            task.succeed(film)
        except ImageFault as fault:
            task.fail(fault.code, fault.message)
        except OSError as error:
            task.fail("GENERATION_FAILED", type(error).__name__)
        if task.state == "failed" and not self.dials.bill_failed:
            self.bank.refund(task.billed_usd)

    async def _image(self, task: Task) -> bytes:
        entry = Entry("image", "GET", task.order.image_url.split("?")[0], task_id=task.id)
        self.journal.entries.append(entry)
        try:
            async with self._fetchers:
                image = await fetch_image(self._client, task.order.image_url, self.dials.s3_address)
            entry.image_sha256 = task.image_sha256 = hashlib.sha256(image).hexdigest()
            await asyncio.to_thread(check_image, image)
        except ImageFault as fault:
            entry.outcome = fault.code
            raise
        finally:
            task.fetched = True
            entry.seconds = time.time() - entry.at
        entry.outcome = "200"
        return image

    def result_url(self, task: Task) -> str:
        """A fresh link to the task's file that ends by itself."""
        expires = round((time.time() + self.dials.url_seconds) * 1000)
        return f"{self.base_url}/files/{task.id}.mp4?Expires={expires}&Signature={self._sign(task.id, expires)}"

    def may_fetch(self, task_id: str, expires: str, signature: str) -> bool:
        """Whether a link is ours and still alive."""
        genuine = expires.isdecimal() and hmac.compare_digest(self._sign(task_id, int(expires)), signature)
        return genuine and int(expires) > time.time() * 1000

    def _sign(self, task_id: str, expires: int) -> str:
        return hmac.new(self._secret, f"{task_id}:{expires}".encode(), hashlib.sha256).hexdigest()
