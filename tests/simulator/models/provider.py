"""A model of the provider: it accepts, bills, renders, calls back, and loses answers.

`Provider.posts` is the bill: every submit that was ever sent, with its fate.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from i2v.apixo.callbacks import verify
from i2v.apixo.fail_codes import FailClass, classify_fail_code
from i2v.apixo.models import SubmitBody, TaskStatus
from i2v.errors import (
    AccountRejected,
    AnswerLost,
    Busy,
    ContentRejected,
    ProviderError,
    Rejected,
    TaskRejected,
)
from i2v.pricing import price_usd
from i2v.request import Mode

if TYPE_CHECKING:
    from tests.simulator.process import Process
    from tests.simulator.world import World

UNPAID: dict[str, ProviderError] = {
    "429": Busy("POST: 429", code="429", status=429),
    "envelope 5xx": Busy("POST: 502", code="502", status=502),
    "400": Rejected("POST: 400", code="400", status=400),
    "content": ContentRejected("POST: 400 content", code="NSFW", status=400),
    "account": AccountRejected("POST: 402", code="402", status=402),
}
FAIL_CODES = (
    "Timeout",
    "RateLimited",
    "NSFW",
    "InvalidImageSize",
    "Gremlins",
    "GENERATION_FAILED",
    "InsufficientBalance",
)
CALLBACK_RETRIES = (30.0, 90.0, 270.0)


@dataclass
class Post:
    """One submit that was sent: who sent it for which attempt, and what became of it."""

    number: int
    process: str
    run_id: str
    job: str
    attempt: int
    claim: str
    """The token of the attempt's claim, empty if no record had one."""
    day: str
    """The UTC day by the clock of the process."""
    sent_at: float
    price: Decimal
    fate: str = ""
    is_billed: bool = False
    is_exposed: bool = False
    """Whether it may have been paid, as far as its sender can know."""
    task: str = ""
    is_answered: bool = False
    """Whether a process received the task id or the fail code."""


@dataclass
class RenderTask:
    """A paid task."""

    id: str
    post: Post
    created_at: datetime
    ends_at: float
    fail_code: str
    callback_url: str
    image_key: str
    known_from: float
    """When its real state is shown; before, an unknown one."""
    fetched: str = ""
    """The SHA-256 of the image that was fetched."""
    end_was_seen: bool = False
    """Whether a status request returned its end."""
    is_broken: bool = False
    """Whether downloads may break, each at another place."""
    is_damaged: bool = False
    """Whether its file is damaged for ever."""


class Provider:
    """The provider's side."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.posts: list[Post] = []
        self.tasks: dict[str, RenderTask] = {}
        self.never_sent_usd: defaultdict[str, Decimal] = defaultdict(Decimal)
        """What each run must count as possibly paid, although its connections never came about."""
        self.balance = world.plan.balance
        self.skew = world.plan.provider_skew

    def receive(
        self, process: Process, body: SubmitBody, key: str, fault: str | None
    ) -> tuple[Post, asyncio.Future[str]]:
        """Take a submit whose first byte was sent; nothing can stop it any more."""
        world, weather = self.world, self.world.weather
        post = world.watch.note_post(process, key, price_of(body))
        self.posts.append(post)
        post.fate = fault or "accepted"
        answer: asyncio.Future[str] = world.loop.create_future()
        arrives, returns = weather.between(0.02, 0.5), weather.between(0.02, 0.5)
        if fault == "late answer":
            returns = weather.between(5, 110)
        elif fault == "timeout, paid":
            returns = weather.between(125, 600)
        post.is_exposed = fault not in UNPAID
        world.loop.call_later(arrives, self._accept, process, body, post, answer, returns)
        return post, answer

    def _accept(
        self, process: Process, body: SubmitBody, post: Post, answer: asyncio.Future[str], returns: float
    ) -> None:
        world, fault = self.world, post.fate
        if fault not in UNPAID and fault != "lost, not paid" and self.balance < post.price:
            post.fate = fault = "account"
            post.is_exposed = False
        result: str | ProviderError
        if fault in UNPAID:
            result = UNPAID[fault]
        elif fault == "fail code":
            post.is_billed = world.weather.happens(0.5, "fail code billed")
            code = world.weather.pick("Gremlins", "IMAGE_DOWNLOAD_FAILED", "Timeout")
            result = TaskRejected("POST: a fail code", code=code, status=200)
        elif fault == "lost, not paid":
            result = AnswerLost("POST: no answer", code="ReadTimeout")
        else:
            task = self._new_task(post, body)
            result = AnswerLost("POST: no answer", code="ReadTimeout") if fault == "lost, paid" else task.id
        world.tell(process.name, f"POST #{post.number} for {post.job[:8]}/{post.attempt}: {fault} {post.task}")
        world.count(f"POST {fault}")
        process.has_done("POST", post.job)
        world.loop.call_later(returns, _deliver, answer, result)

    def _new_task(self, post: Post, body: SubmitBody) -> RenderTask:
        world, weather = self.world, self.world.weather
        post.is_billed = True
        self.balance -= post.price
        seconds = world.plan.render_seconds(weather)
        fails = weather.happens(world.plan.failure_rate, "task failed")
        task = RenderTask(
            id=f"task_{post.number}",
            post=post,
            created_at=self.now(),
            ends_at=world.loop.time() + seconds,
            fail_code=weather.pick(*FAIL_CODES) if fails else "",
            callback_url=body.callback_url or "",
            image_key=urlsplit(body.input.image_urls[0]).path.lstrip("/"),
            known_from=world.loop.time() + (weather.between(0, 900) if weather.happens(0.05, "unknown state") else 0),
            is_broken=weather.happens(0.02, "broken video"),
            is_damaged=weather.happens(0.02, "damaged video"),
        )
        post.task = task.id
        self.tasks[task.id] = task
        world.loop.call_later(weather.between(0, min(5, seconds)), self._fetch_image, task)
        if task.callback_url:
            world.loop.call_later(seconds + weather.between(0.1, 3), self._call_back, task, 0)
        return task

    def now(self) -> datetime:
        """Return the provider's time."""
        return self.world.now + timedelta(seconds=self.skew)

    def _fetch_image(self, task: RenderTask) -> None:
        found = self.world.bucket.find(task.image_key)
        if found is None or self.world.plan.is_unreachable:
            task.fail_code = "IMAGE_DOWNLOAD_FAILED"
        else:
            task.fetched = hashlib.sha256(found.body).hexdigest()

    def _call_back(self, task: RenderTask, number: int) -> None:
        world = self.world
        if world.weather.happens(world.weather.door_rate, "callback not delivered"):
            if number < len(CALLBACK_RETRIES):
                world.loop.call_later(CALLBACK_RETRIES[number], self._call_back, task, number + 1)
            else:
                world.count("callback lost")
            return
        _, job, attempt, signature = urlsplit(task.callback_url).path.rsplit("/", 3)
        assert verify(world.settings, job, attempt, signature)
        world.door.receive(f"{job}/{attempt}/{task.id}")
        if world.weather.happens(0.1, "callback twice"):
            world.loop.call_later(world.weather.between(0, 120), world.door.receive, f"{job}/{attempt}/{task.id}")

    def status(self, task_id: str) -> TaskStatus:
        """Return a task's status. Raise `Rejected` if there is no such task."""
        task, now = self.tasks.get(task_id), self.world.loop.time()
        if task is None:
            raise Rejected(f"GET: no task {task_id}", code="404", status=404)
        created = round(task.created_at.timestamp() * 1000)
        data: dict[str, Any] = {"taskId": task_id, "state": "processing", "createTime": created}
        if now < max(task.ends_at, task.known_from):
            return TaskStatus.model_validate(data | ({"state": "processing_r2"} if now < task.known_from else {}))
        task.end_was_seen = True
        if task.fail_code:
            return TaskStatus.model_validate(data | {"state": "failed", "failCode": task.fail_code, "failMsg": ""})
        urls = json.dumps({"resultUrls": [f"https://file.example/{task_id}"]})
        return TaskStatus.model_validate(data | {"state": "success", "resultJson": urls})


def is_transient(code: str) -> bool:
    """Return whether a failure with this code allows another attempt."""
    return classify_fail_code(code) in {FailClass.TRANSIENT, FailClass.ACCOUNT}


def price_of(body: SubmitBody) -> Decimal:
    """Return what a submit costs."""
    mode = Mode.PRO if body.input.mode.startswith("pro") else Mode.STANDARD
    return price_usd(mode, body.input.duration or 6, {})


def copied(error: ProviderError) -> ProviderError:
    """Return an error to raise: one that is raised twice would keep the frames of an earlier story alive."""
    return type(error)(error.message, error.hint, error.code, error.retry_after, error.status)


def _deliver(answer: asyncio.Future[str], result: str | ProviderError) -> None:
    if answer.done():
        return
    if isinstance(result, ProviderError):
        answer.set_exception(copied(result))
    else:
        answer.set_result(result)
