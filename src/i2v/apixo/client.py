"""The HTTP client of the provider: `ApixoClient`. When to submit or poll is the caller's decision.

A submit is exactly one POST; status and balance requests are retried. What an answer means is in `errors`, the
contract in `models`.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from decimal import Decimal
from importlib.metadata import version
from typing import Self, TypeVar
from urllib.parse import urlsplit

import httpx

from i2v.apixo.answers import Answer, redact
from i2v.apixo.errors import LOST_HINT, accepted_task, bad_answer, read_error
from i2v.apixo.models import SubmitBody, TaskStatus, task_status
from i2v.apixo.transport import NOT_CONNECTED, SendHook, Transport, decoded_body, read_body, timeouts
from i2v.errors import AnswerLost, BadAnswer, Busy, NothingSent, Rejected, UsageError
from i2v.logs import protect_logs
from i2v.net.limiter import AdaptiveLimiter
from i2v.net.proxies import PROXY_HINT, Proxies
from i2v.net.tls import tls_problem
from i2v.request import MODEL
from i2v.settings import Settings

log = logging.getLogger(__name__)
SUBMIT_PATH = f"/generateTask/{MODEL}"
STATUS_PATH = f"/statusTask/{MODEL}"
BALANCE_PATH = "/apikeys/current-balance"

SUBMIT_SECONDS = 120.0
"""Total time of a submit, well within the ledger's lease; httpx's own timeouts restart with every byte."""
READ_SECONDS = 30.0
"""Total time of one attempt of a status or balance request."""
READ_ATTEMPTS = 5
RETRY_WITHIN_SECONDS = 60.0
BACKOFF_FIRST_SECONDS = 0.5
BACKOFF_MOST_SECONDS = 10.0

_CONNECT_HINT = "Check the network and APIXO_BASE_URL; nothing was sent, so nothing was charged"
T = TypeVar("T")


class ApixoClient:
    """The provider's API: `async with ApixoClient(settings) as client:`.

    Proxies and certificates are those of the environment (docs/network.md). Follows no redirects. Uses httpx's
    transport, since its client would take a third more CPU. Raise `UsageError` if the key is not set or not valid in a
    header, or if a proxy or the certificates cannot be used.

    `limiter` admits as many requests as there are connections. Hold it around `submit`; `status` and `balance` acquire
    it themselves.
    """

    def __init__(self, settings: Settings) -> None:
        protect_logs()
        self._key = _valid_key(settings)
        self._base_url = settings.base_url
        self._headers = {
            "Authorization": f"Bearer {self._key}",
            "User-Agent": f"i2v/{version('i2v')}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        self.limiter = AdaptiveLimiter(settings.max_connections)
        url = urlsplit(settings.base_url)
        self._proxy = Proxies().find(url.scheme, url.hostname or "", url.port)
        self._transport = Transport(settings.max_connections, self._proxy)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.aclose()

    async def submit(
        self,
        body: SubmitBody,
        *,
        timeout: float = SUBMIT_SECONDS,  # noqa: ASYNC109 — it is total
        before_send: Callable[[], None] | None = None,
    ) -> str:
        """Submit one video with exactly one POST, and return its task id; from then on it is charged.

        The caller holds the limiter and the job's claim. A cancel leaves the claim without an answer, like a crash.
        `before_send` is called once the connection is ready, right before the first byte; if it raises, nothing is
        sent, and its error is raised unchanged.

        Raises:
            NothingSent: no connection, or not in time; safe to send again.
            ProviderError: any error of `accepted_task`.
            AnswerLost: anything else; possibly charged.
        """
        label, hook, received = f"POST {SUBMIT_PATH}", SendHook(before_send), bytearray()
        request, response = self._submit_request(label, body, timeout, hook), None
        try:
            async with asyncio.timeout(timeout):
                response = await self._transport.handle_async_request(request)
                await read_body(response, received)
        except NOT_CONNECTED as error:
            raise self._nothing_sent(label, error) from None
        except Exception as error:  # noqa: BLE001 — after any other error, the POST may have arrived
            if hook.error is not None:
                raise hook.error from None
            if hook.nothing_sent:
                raise self._nothing_sent(label, error) from None
            return self._task_in_part(label, response, received, error)
        return self._accepted(self._answer(label, response, received))

    def _task_in_part(self, label: str, response: httpx.Response | None, received: bytearray, error: Exception) -> str:
        """Return the task id if the answer was complete up to the error; else raise `AnswerLost`."""
        answer = None if response is None else self._answer(label, response, received)
        if answer and answer.envelope and answer.envelope.task_id:
            return self._accepted(answer)
        message = f"{label} got no answer: {self._describe(error)}"
        if answer and answer.redacted_body:
            message = f"{label} got a part of an answer: {self._describe(error)}: {answer.redacted_body}"
        raise AnswerLost(message, LOST_HINT, type(error).__name__) from None

    def _accepted(self, answer: Answer) -> str:
        self._slow_down_after(answer)
        task_id = accepted_task(answer)
        if httpx.codes.is_success(answer.status):
            self.limiter.recover()
        else:
            log.warning("%s, but with a task id: the task exists", answer)
        return task_id

    async def status(
        self, task_id: str, *, tries: int = READ_ATTEMPTS, within: float = RETRY_WITHIN_SECONDS
    ) -> TaskStatus:
        """Request the status of a task. Free; makes up to `tries` attempts within that many seconds.

        Raise `ProviderError`: that of the last attempt, or at once that of an answer that cannot change (400 to 404).
        """
        params = {"taskId": task_id}
        return await self._read(STATUS_PATH, params, lambda answer: task_status(answer, task_id), tries, within)

    async def balance(self, *, tries: int = READ_ATTEMPTS, within: float = RETRY_WITHIN_SECONDS) -> Decimal:
        """Return the account's balance in US dollars. Free; retried and raises like `status`."""
        return await self._read(BALANCE_PATH, {}, _balance, tries, within)

    async def _read(
        self, path: str, params: dict[str, str], parse: Callable[[Answer], T], tries: int, within: float
    ) -> T:
        deadline = float("inf")
        for number in range(1, tries + 1):
            try:
                async with self.limiter:
                    deadline = min(deadline, time.monotonic() + within)  # the wait for the limiter does not count
                    return await self._read_once(path, params, parse)
            except (Busy, NothingSent, BadAnswer) as error:
                pause = _backoff(number, error.retry_after)
                if number >= tries or time.monotonic() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
        raise ValueError("tries must be at least 1")

    async def _read_once(self, path: str, params: dict[str, str], parse: Callable[[Answer], T]) -> T:
        label = f"GET {path}"
        try:
            url, extensions = self._base_url + path, {"timeout": timeouts(READ_SECONDS)}
            request = httpx.Request("GET", url, params=params or None, headers=self._headers, extensions=extensions)
            async with asyncio.timeout(READ_SECONDS):
                response = await self._transport.handle_async_request(request)
                body = bytearray()
                await read_body(response, body)
        except NOT_CONNECTED as error:
            raise self._nothing_sent(label, error) from None
        except Exception as error:  # noqa: BLE001 — the transport raises more than it documents, and a retry is free
            hint = "It is retried; if that does not help, check the network and APIXO_BASE_URL"
            raise BadAnswer(f"{label} got no answer: {self._describe(error)}", hint, type(error).__name__) from None
        answer = self._answer(label, response, body)
        if failure := read_error(answer):
            self._slow_down_after(answer)
            raise failure
        result = parse(answer)
        self.limiter.recover()
        return result

    def _submit_request(self, label: str, body: SubmitBody, seconds: float, hook: SendHook) -> httpx.Request:
        url, extensions = self._base_url + SUBMIT_PATH, {"timeout": timeouts(seconds), "trace": hook}
        try:
            return httpx.Request("POST", url, json=body.wire(), headers=self._headers, extensions=extensions)
        except httpx.InvalidURL as error:
            raise self._nothing_sent(label, error) from None
        except ValueError as error:  # such as half a surrogate pair in the prompt
            raise Rejected(f"{label} cannot be encoded: {type(error).__name__}", "Correct the prompt") from None

    def _answer(self, label: str, response: httpx.Response, body: bytearray) -> Answer:
        return Answer(label, response.status_code, decoded_body(response, body), response.headers, self._key)

    def _nothing_sent(self, label: str, error: Exception) -> NothingSent:
        problem, hint = tls_problem(error) or (self._describe(error), _CONNECT_HINT)
        through = ""
        if self._proxy:
            through, hint = f" through the proxy {self._proxy}", f"{PROXY_HINT}. {hint}"
        return NothingSent(f"{label} could not connect{through}: {problem}", hint, type(error).__name__)

    def _describe(self, error: Exception) -> str:
        text = redact(str(error), self._key).rstrip(".")  # the caller continues the sentence
        return f"{type(error).__name__}: {text}" if text else type(error).__name__

    def _slow_down_after(self, answer: Answer) -> None:
        if answer.status == httpx.codes.TOO_MANY_REQUESTS:
            self.limiter.slow_down()


def _valid_key(settings: Settings) -> str:
    key = settings.require_key().get_secret_value().strip()
    if not key.isascii() or not key.isprintable() or " " in key or not key:
        raise UsageError("APIXO_API_KEY has characters that are not valid in a key", "Set it without quotes or spaces")
    return key


def _balance(answer: Answer) -> Decimal:
    data = answer.envelope.data if answer.envelope else None
    if isinstance(data, bool) or not isinstance(data, int | Decimal):
        raise bad_answer(answer, "without a number in data")
    return Decimal(data)


def _backoff(number: int, retry_after: float | None) -> float:
    longest: float = min(BACKOFF_MOST_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** (number - 1))
    jitter = random.uniform(0.5, 1.0) * longest  # noqa: S311 — spreads requests, hides nothing
    return jitter if retry_after is None else retry_after + jitter / 2
