"""The emulator's state: `Emulator` accepts submits, bills them and runs each task to its end.

Everything here runs on the emulator's own event loop. HTTP is in `routes`, threads are in `server`.
"""

import asyncio
import hashlib
import random
import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from sandbox.provider.callback_sender import CallbackSender
from sandbox.provider.contract import ApiError, SubmitRequest
from sandbox.provider.faults import Fault, ScriptedFaults
from sandbox.provider.input_images import ImageError, check_image, fetch_image
from sandbox.provider.options import ProviderOptions
from sandbox.provider.renderer import Renderer
from sandbox.provider.request_log import LogEntry, RequestLog
from sandbox.provider.tasks import ResultUrls, Task
from sandbox.provider.video_maker import VideoSpec

MAX_IMAGE_FETCHES = 16
URL_SECONDS = 3600
"""How long a result URL is valid."""


@dataclass
class Account:
    """A balance. Use it only on the emulator's event loop, so that check and charge are one step."""

    balance_usd: Decimal
    billed_usd: Decimal = Decimal(0)

    def charge(self, price_usd: Decimal) -> None:
        """Charge a price. Raise `ApiError` 402 if the balance is too low."""
        if self.balance_usd < price_usd:
            raise ApiError(402, f"balance {self.balance_usd} USD is below the price of {price_usd} USD")
        self.balance_usd -= price_usd
        self.billed_usd += price_usd


class Emulator:
    """One provider: its account, tasks, request log and scripted faults."""

    def __init__(self, options: ProviderOptions, base_url: str, folder: Path) -> None:
        self.renderer = Renderer(folder)
        self.request_log = RequestLog()
        self.result_urls = ResultUrls(base_url)
        self._initial_options = options
        self._valid_images: set[str] = set()
        self._fetch_limit = asyncio.Semaphore(MAX_IMAGE_FETCHES)
        self._client = httpx.AsyncClient(limits=httpx.Limits(max_connections=MAX_IMAGE_FETCHES), trust_env=False)
        self._callback_sender = CallbackSender(self.request_log, lambda: self.options)
        self._initialize(options)

    def _initialize(self, options: ProviderOptions) -> None:
        self.options = options
        self.account = Account(options.balance_usd)
        self.faults = ScriptedFaults()
        self.tasks: dict[str, Task] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._random = random.Random(options.seed)  # noqa: S311 - repeatable jitter

    def set_options(self, changes: dict[str, Any]) -> ProviderOptions:
        """Change options; `balance_usd` also sets the balance. Raise `ValueError` for an invalid one."""
        self.options = ProviderOptions.model_validate({**self.options.model_dump(), **changes})
        if "balance_usd" in changes:
            self.account.balance_usd = self.options.balance_usd
        return self.options

    async def reset(self) -> None:
        """Clear tasks, log, bills, faults and changed options; keep rendered videos.

        Raise `RuntimeError` if a task ended by a bug in the emulator, since its responses cannot be trusted then.
        """
        errors = await self._cancel_tasks()
        self.request_log.entries.clear()
        self._initialize(self._initial_options)
        if errors:
            raise RuntimeError(f"the emulator has a bug: {errors[0]!r}") from errors[0]

    async def close(self) -> None:
        """Stop everything."""
        await self._cancel_tasks()
        await self._client.aclose()
        await self._callback_sender.close()
        await asyncio.to_thread(self.renderer.close)

    async def _cancel_tasks(self) -> list[Exception]:
        """Cancel all tasks and return the unexpected errors they raised."""
        for running in self._running.values():
            running.cancel()
        results = await asyncio.gather(*self._running.values(), return_exceptions=True)
        return [result for result in results if isinstance(result, Exception)]

    def accept(self, request: SubmitRequest) -> Task:
        """Bill a submit and start its task. Raise `ApiError` 402 if the balance is too low."""
        self.account.charge(request.price_usd)
        jitter = self._random.uniform(-self.options.render_jitter, self.options.render_jitter)
        task = Task(request, request.price_usd, due=time.time() + self.options.render_seconds * (1 + jitter))
        task.fault = self.faults.next_for(task.fault_target("task"))
        self.tasks[task.id] = task
        self._running[task.id] = asyncio.create_task(self._run(task))
        return task

    async def wait_ended(self, task_id: str | None) -> None:
        """Wait until a task has ended and its callback is delivered or given up."""
        if running := self._running.get(task_id or ""):
            await asyncio.shield(running)

    def result_url(self, task: Task, *, expired: bool = False) -> str:
        """Return a new URL of the task's video, or an expired one."""
        return self.result_urls.create(task.id, -1 if expired else URL_SECONDS)

    async def _run(self, task: Task) -> None:
        try:
            task.succeed(await self._render(task))
        except ImageError as error:
            task.fail(error.code, error.message)
        except OSError as error:
            task.fail("GENERATION_FAILED", type(error).__name__)
        if task.request.callback_url:
            fault = self.faults.next_for(task.fault_target("callback"))
            await self._callback_sender.deliver(task, task.status_body(self.result_url(task)), fault)

    async def _render(self, task: Task) -> Path:
        image = await self._image(task)
        if task.fault and task.fault.kind == "fails":
            await asyncio.sleep(task.due - time.time())
            raise _scripted_failure(task.fault, "Unknown error")
        video = await self.renderer.render(image, self._video_spec(task), shared=self.options.render == "shared")
        await asyncio.sleep(task.due - time.time())
        return video

    def _video_spec(self, task: Task) -> VideoSpec:
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
            if task.image_sha256 not in self._valid_images:
                await asyncio.to_thread(check_image, image)
                self._valid_images.add(task.image_sha256)
        except ImageError as error:
            entry.outcome = error.code
            raise
        finally:
            task.fetched = True
            entry.seconds = time.time() - entry.at
        entry.outcome = "200"
        return image

    async def _fetch(self, task: Task, entry: LogEntry) -> bytes:
        fault = self.faults.next_for(task.fault_target("image"))
        entry.fault = fault.kind if fault else ""
        if fault and fault.kind == "fails":
            raise _scripted_failure(fault, "IMAGE_DOWNLOAD_FAILED")
        if fault and fault.kind == "late":
            await asyncio.sleep(fault.seconds or 1)
        async with self._fetch_limit:
            return await fetch_image(self._client, task.request.image_url, self.options.s3_address)


def _scripted_failure(fault: Fault, default_code: str) -> ImageError:
    code = fault.code or default_code
    return ImageError(code, fault.message or code)
