"""The HTTP client of the provider: `ApixoClient`.

A submit is exactly one POST; status and balance requests are retried. What an answer means is in `errors`, the
contract in `models`. When to submit or poll is the caller's decision.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from decimal import Decimal
from importlib.metadata import version
from types import TracebackType
from typing import Self, TypeVar

import httpx

from i2v.apixo.answers import Answer, redact
from i2v.apixo.errors import LOST_HINT, accepted_task, bad_answer, read_error
from i2v.apixo.models import SubmitBody, TaskStatus, task_status
from i2v.errors import AnswerLost, BadAnswer, Busy, NothingSent, Rejected, UsageError
from i2v.logs import quiet_http_logs
from i2v.net.limiter import AdaptiveLimiter
from i2v.request import MODEL
from i2v.settings import Settings

SUBMIT_PATH = f"/generateTask/{MODEL}"
STATUS_PATH = f"/statusTask/{MODEL}"
BALANCE_PATH = "/apikeys/current-balance"

SUBMIT_SECONDS = 120.0
"""Total time of a submit, set by the ledger's lease; httpx's own timeouts restart with every byte."""
READ_SECONDS = 30.0
"""Total time of one attempt of a status or balance request."""
CONNECT_SECONDS = 15.0
IDLE_SECONDS = 1.0
"""A connection that was idle longer is not reused, since the server may be closing it."""
BODY_LIMIT_BYTES = 1 << 20
REFUSAL_BODY_SECONDS = 5.0
"""How long to wait for the body of a 429, which is a refusal without it too."""
READ_ATTEMPTS = 5
RETRY_WITHIN_SECONDS = 60.0
BACKOFF_FIRST_SECONDS = 0.5
BACKOFF_MOST_SECONDS = 10.0

_NOT_CONNECTED = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)
_CONNECT_HINT = "Check the network and APIXO_BASE_URL; nothing was sent, so nothing was charged"
T = TypeVar("T")


class _Transport(httpx.AsyncBaseTransport):
    """Each POST opens its own connection; GETs share a pool.

    A server may close a kept-alive connection just as it is reused, and then it is unknown whether it read the request:
    2 of 1,000 submits became unknown that way. A handshake costs less.
    """

    def __init__(self, connections: int) -> None:
        context = httpx.create_ssl_context(trust_env=True)
        self._reads, self._posts = (
            httpx.AsyncHTTPTransport(
                verify=context,
                trust_env=False,
                limits=httpx.Limits(
                    max_connections=connections, max_keepalive_connections=kept, keepalive_expiry=IDLE_SECONDS
                ),
            )
            for kept in (connections, 0)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        transport = self._posts if request.method == "POST" else self._reads
        return await transport.handle_async_request(request)

    async def aclose(self) -> None:
        await self._posts.aclose()
        await self._reads.aclose()


class ApixoClient:
    """The provider's API: `async with ApixoClient(settings) as client:`.

    Ignores proxies of the environment, since one that repeats a request would pay twice, but uses its certificates
    (`SSL_CERT_FILE`, `SSL_CERT_DIR`). Follows no redirects.

    Args:
        settings: key, base URL and number of connections.
        transport: replaces the network, for tests and benchmarks.

    Attributes:
        limiter: admits as many requests as there are connections. Hold it around `submit`; `status` and `balance`
            acquire it themselves.

    Raises:
        UsageError: the key is not set or not valid in a header.
    """

    def __init__(self, settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        quiet_http_logs()
        self._key = _valid_key(settings)
        self._base_url = settings.base_url
        self.limiter = AdaptiveLimiter(settings.max_connections)
        self._transport = transport or _Transport(settings.max_connections)
        self._extensions = {"timeout": _timeouts(READ_SECONDS).as_dict()}
        self._http = httpx.AsyncClient(
            headers={
                "Authorization": f"Bearer {self._key}",
                "User-Agent": f"i2v/{version('i2v')}",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            },
            timeout=_timeouts(READ_SECONDS),
            follow_redirects=False,
            trust_env=False,
            transport=self._transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def submit(self, body: SubmitBody, *, timeout: float = SUBMIT_SECONDS) -> str:  # noqa: ASYNC109 — it is total
        """Submit one video with exactly one POST, and return its task id; from then on it is charged.

        The caller holds the limiter and the job's claim. A cancel leaves the claim without an answer, like a crash.

        Args:
            body: the submit.
            timeout: total seconds.

        Raises:
            NothingSent: no connection; safe to send again.
            Busy: refused for now; not charged.
            Rejected: this request is not accepted; not charged.
            AccountRejected: no request of this account is accepted; not charged.
            TaskRejected: a fail code instead of a task id.
            AnswerLost: anything else; it may be charged.
        """
        label = f"POST {SUBMIT_PATH}"
        request = self._submit_request(label, body, timeout)
        try:
            async with asyncio.timeout(timeout):
                answer = await self._exchange(request, label)
        except _NOT_CONNECTED as error:
            raise self._nothing_sent(label, error) from None
        except Exception as error:  # noqa: BLE001 — after any other error, the POST may have arrived
            raise AnswerLost(
                f"{label} got no answer: {self._describe(error)}", LOST_HINT, type(error).__name__
            ) from None
        try:
            task_id = accepted_task(answer)
        except Busy:
            self._slow_down_after(answer)
            raise
        self.limiter.recover()
        return task_id

    async def status(
        self, task_id: str, *, tries: int = READ_ATTEMPTS, within: float = RETRY_WITHIN_SECONDS
    ) -> TaskStatus:
        """Request the status of a task. Free, and retried: up to `tries` attempts that start `within` so many seconds.

        Raises:
            AccountRejected: 401, 402, 403.
            Rejected: 400, 404.
            Busy, NothingSent, BadAnswer: the last attempt was refused, had no connection, or no valid answer.
        """
        params = {"taskId": task_id}
        return await self._read(STATUS_PATH, params, lambda answer: task_status(answer, task_id), tries, within)

    async def balance(self, *, tries: int = READ_ATTEMPTS, within: float = RETRY_WITHIN_SECONDS) -> Decimal:
        """Return the account's balance in US dollars. Free; retried and raises like `status`."""
        return await self._read(BALANCE_PATH, {}, _balance, tries, within)

    async def _read(
        self, path: str, params: dict[str, str], parse: Callable[[Answer], T], tries: int, within: float
    ) -> T:
        end = float("inf")
        for number in range(1, tries + 1):
            try:
                async with self.limiter:
                    end = min(end, time.monotonic() + within)  # the wait for the limiter does not count
                    return await self._read_once(path, params, parse)
            except (Busy, NothingSent, BadAnswer) as error:
                pause = _backoff(number, error.retry_after)
                if number >= tries or time.monotonic() + pause > end:
                    raise
            await asyncio.sleep(pause)
        raise ValueError("tries must be at least 1")

    async def _read_once(self, path: str, params: dict[str, str], parse: Callable[[Answer], T]) -> T:
        label = f"GET {path}"
        try:
            url, headers = self._base_url + path, self._http.headers
            request = httpx.Request("GET", url, params=params or None, headers=headers, extensions=self._extensions)
            async with asyncio.timeout(READ_SECONDS):
                response = await self._transport.handle_async_request(
                    request
                )  # httpx.AsyncClient would add a third of the CPU
                answer = await self._read_to_end(response, label)
        except _NOT_CONNECTED as error:
            raise self._nothing_sent(label, error) from None
        except Exception as error:  # noqa: BLE001 — the transport raises more than it documents, and a retry is free
            hint = "It is retried; if that does not help, check the network and APIXO_BASE_URL"
            raise BadAnswer(f"{label} got no answer: {self._describe(error)}", hint, type(error).__name__) from None
        failure = read_error(answer)
        if failure is not None:
            self._slow_down_after(answer)
            raise failure
        result = parse(answer)
        self.limiter.recover()
        return result

    def _submit_request(self, label: str, body: SubmitBody, seconds: float) -> httpx.Request:
        url = self._base_url + SUBMIT_PATH
        try:
            return self._http.build_request("POST", url, json=body.wire(), timeout=_timeouts(seconds))
        except httpx.InvalidURL as error:
            raise self._nothing_sent(label, error) from None
        except ValueError as error:  # such as half a surrogate pair in the prompt
            raise Rejected(f"{label} cannot be encoded: {type(error).__name__}", "Correct the prompt") from None

    async def _exchange(self, request: httpx.Request, label: str) -> Answer:
        return await self._read_to_end(await self._http.send(request, stream=True), label)

    async def _read_to_end(self, response: httpx.Response, label: str) -> Answer:
        try:
            body = await _body(response)
        finally:
            await response.aclose()
        return Answer(label, response.status_code, body, response.headers, self._key)

    def _nothing_sent(self, label: str, error: Exception) -> NothingSent:
        return NothingSent(f"{label} could not connect: {self._describe(error)}", _CONNECT_HINT, type(error).__name__)

    def _describe(self, error: Exception) -> str:
        text = redact(str(error), self._key).rstrip(".")  # the caller continues the sentence
        return f"{type(error).__name__}: {text}" if text else type(error).__name__

    def _slow_down_after(self, answer: Answer) -> None:
        if answer.status == httpx.codes.TOO_MANY_REQUESTS:
            self.limiter.slow_down()


def _timeouts(seconds: float) -> httpx.Timeout:
    """Return timeouts such that a failed connection ends as a connect error, before the total time is over."""
    connect = min(CONNECT_SECONDS, seconds / 4)
    return httpx.Timeout(seconds, connect=connect, pool=connect)


async def _body(response: httpx.Response) -> bytes:
    if response.status_code != httpx.codes.TOO_MANY_REQUESTS:
        return await _read_limited(response)
    with contextlib.suppress(Exception):  # a 429 is a refusal, with or without its body
        async with asyncio.timeout(REFUSAL_BODY_SECONDS):
            return await _read_limited(response)
    return b""


async def _read_limited(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > BODY_LIMIT_BYTES:
            raise ValueError(f"the body is larger than {BODY_LIMIT_BYTES} bytes")
    return bytes(body)


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
