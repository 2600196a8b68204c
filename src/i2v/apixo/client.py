"""The only place that speaks HTTP with the provider: `ApixoClient`.

A submit is one POST and never repeated here; reads are repeated a few times. What an answer means is in `errors`, what
it says in `models`; when to submit or poll is the caller's.
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

from i2v.apixo.answers import Answer, shown
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
"""A submit's time in all, from the ledger's rule; httpx's own timeouts start anew with every byte."""
READ_SECONDS = 30.0
"""The same for one try of a status or balance request."""
CONNECT_SECONDS = 15.0
IDLE_SECONDS = 1.0
"""A connection that was idle for longer is not used, since the server may just be closing it."""
BODY_LIMIT_BYTES = 1 << 20
REFUSAL_BODY_SECONDS = 5.0
"""How long the words of a 429 are waited for, which is a plain refusal without them."""
TRIES = 5
TRY_WITHIN_SECONDS = 60.0
BACKOFF_FIRST_SECONDS = 0.5
BACKOFF_MOST_SECONDS = 10.0

_NOT_CONNECTED = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)
_CONNECT_HINT = "Check the network and APIXO_BASE_URL; nothing was sent, so nothing was paid"
T = TypeVar("T")


class _Transport(httpx.AsyncBaseTransport):
    """Each POST has a connection of its own, reads share a pool.

    A server may close a kept connection just as it is used again, and then nobody can tell whether it read the request:
    measured, 2 of 1,000 submits became false unknowns. A handshake costs less.
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
    """The provider, over one HTTP client: `async with ApixoClient(settings) as client:`.

    No proxy is taken from the environment, since one that repeats a request would pay twice; certificates are
    (`SSL_CERT_FILE`, `SSL_CERT_DIR`). No redirect is followed.

    Args:
        settings: key, base URL and the number of connections.
        transport: another way to the provider than the network.

    Attributes:
        gate: as wide as the settings allow connections. Hold it around `submit`; `status` and `balance` take it
            themselves, so never hold it there.

    Raises:
        UsageError: the key is not set, or cannot be one.
    """

    def __init__(self, settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        quiet_http_logs()
        self._key = _usable_key(settings)
        self._base_url = settings.base_url
        self.gate = AdaptiveLimiter(settings.max_connections)
        self._transport = transport or _Transport(settings.max_connections)
        self._patience = {"timeout": _timeouts(READ_SECONDS).as_dict()}
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
        """Order one video with exactly one POST; the caller holds the gate and the job's claim.

        Cancelled from outside, it leaves the claim without an answer, as a crash would.

        Args:
            body: what is ordered.
            timeout: seconds in all.

        Returns:
            The task id: it is paid from here on.

        Raises:
            NothingSent: no connection came about; safe to send again.
            Busy: refused for now, nothing paid.
            Rejected: refused for good, nothing paid.
            AccountRejected: refused for every image, nothing paid.
            TaskRejected: a fail code in place of a task id.
            AnswerLost: all else; it may have been paid.
        """
        label = f"POST {SUBMIT_PATH}"
        request = self._submit_request(label, body, timeout)
        try:
            async with asyncio.timeout(timeout):
                answer = await self._exchange(request, label)
        except _NOT_CONNECTED as error:
            raise self._nothing_sent(label, error) from None
        except Exception as error:  # noqa: BLE001 — whatever went wrong, the POST may have arrived
            raise AnswerLost(f"{label} got no answer: {self._told(error)}", LOST_HINT, type(error).__name__) from None
        try:
            task_id = accepted_task(answer)
        except Busy:
            self._slow_down_after(answer)
            raise
        self.gate.recover()
        return task_id

    async def status(self, task_id: str, *, tries: int = TRIES, within: float = TRY_WITHIN_SECONDS) -> TaskStatus:
        """Ask how a task stands; free, and tried again.

        Args:
            task_id: the provider's, opaque.
            tries: how often it is asked at most.
            within: seconds from the first try after which no further one starts.

        Raises:
            AccountRejected: 401, 402, 403.
            Rejected: 400, 404.
            Busy: still refused for now after the last try.
            NothingSent: no connection came about.
            BadAnswer: no answer, or one that breaks the contract.
        """
        params = {"taskId": task_id}
        return await self._read(STATUS_PATH, params, lambda answer: task_status(answer, task_id), tries, within)

    async def balance(self, *, tries: int = TRIES, within: float = TRY_WITHIN_SECONDS) -> Decimal:
        """The account's balance in US dollars, exact; free, and tried again.

        Raises:
            AccountRejected: 401, 402, 403.
            Rejected: 400, 404.
            Busy: still refused for now after the last try.
            NothingSent: no connection came about.
            BadAnswer: no answer, or one that breaks the contract.
        """
        return await self._read(BALANCE_PATH, {}, _balance, tries, within)

    async def _read(
        self, path: str, params: dict[str, str], parse: Callable[[Answer], T], tries: int, within: float
    ) -> T:
        end = float("inf")
        for number in range(1, tries + 1):
            try:
                async with self.gate:
                    end = min(end, time.monotonic() + within)  # the wait at the gate does not count
                    return await self._read_once(path, params, parse)
            except (Busy, NothingSent, BadAnswer) as error:
                pause = _pause(number, error.retry_after)
                if number >= tries or time.monotonic() + pause > end:
                    raise
            await asyncio.sleep(pause)
        raise ValueError(f"{tries} tries ask nothing")

    async def _read_once(self, path: str, params: dict[str, str], parse: Callable[[Answer], T]) -> T:
        label = f"GET {path}"
        try:
            url, headers = self._base_url + path, self._http.headers
            request = httpx.Request("GET", url, params=params or None, headers=headers, extensions=self._patience)
            async with asyncio.timeout(READ_SECONDS):
                response = await self._transport.handle_async_request(request)  # what a client adds takes a third
                answer = await self._read_to_end(response, label)
        except _NOT_CONNECTED as error:
            raise self._nothing_sent(label, error) from None
        except Exception as error:  # noqa: BLE001 — the transport raises more than it lists, and asking is free
            hint = "It is asked again; if it stays so, check the network and APIXO_BASE_URL"
            raise BadAnswer(f"{label} got no answer: {self._told(error)}", hint, type(error).__name__) from None
        failure = read_error(answer)
        if failure is not None:
            self._slow_down_after(answer)
            raise failure
        found = parse(answer)
        self.gate.recover()
        return found

    def _submit_request(self, label: str, body: SubmitBody, seconds: float) -> httpx.Request:
        url = self._base_url + SUBMIT_PATH
        try:
            return self._http.build_request("POST", url, json=body.wire(), timeout=_timeouts(seconds))
        except httpx.InvalidURL as error:
            raise self._nothing_sent(label, error) from None
        except ValueError as error:  # such as half a surrogate pair in the prompt
            raise Rejected(f"{label} cannot be written: {type(error).__name__}", "Correct the prompt") from None

    async def _exchange(self, request: httpx.Request, label: str) -> Answer:
        return await self._read_to_end(await self._http.send(request, stream=True), label)

    async def _read_to_end(self, response: httpx.Response, label: str) -> Answer:
        try:
            body = await _body(response)
        finally:
            await response.aclose()
        return Answer(label, response.status_code, body, response.headers, self._key)

    def _nothing_sent(self, label: str, error: Exception) -> NothingSent:
        return NothingSent(f"{label} found no connection: {self._told(error)}", _CONNECT_HINT, type(error).__name__)

    def _told(self, error: Exception) -> str:
        words = shown(str(error), self._key).rstrip(".")  # a sentence goes on after it
        return f"{type(error).__name__}: {words}" if words else type(error).__name__

    def _slow_down_after(self, answer: Answer) -> None:
        if answer.status == httpx.codes.TOO_MANY_REQUESTS:
            self.gate.slow_down()


def _timeouts(seconds: float) -> httpx.Timeout:
    """Such that a connection that does not come about ends as that, before the time in all is over."""
    connect = min(CONNECT_SECONDS, seconds / 4)
    return httpx.Timeout(seconds, connect=connect, pool=connect)


async def _body(response: httpx.Response) -> bytes:
    if response.status_code != httpx.codes.TOO_MANY_REQUESTS:
        return await _limited(response)
    with contextlib.suppress(Exception):  # a 429 is a refusal, whatever becomes of its words
        async with asyncio.timeout(REFUSAL_BODY_SECONDS):
            return await _limited(response)
    return b""


async def _limited(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > BODY_LIMIT_BYTES:
            raise ValueError(f"a body of more than {BODY_LIMIT_BYTES} bytes")
    return bytes(body)


def _usable_key(settings: Settings) -> str:
    key = settings.require_key().get_secret_value().strip()
    if not key.isascii() or not key.isprintable() or " " in key or not key:
        raise UsageError("APIXO_API_KEY holds characters that no key has", "Set it again, without quotes or spaces")
    return key


def _balance(answer: Answer) -> Decimal:
    data = answer.envelope.data if answer.envelope else None
    if isinstance(data, bool) or not isinstance(data, int | Decimal):
        raise bad_answer(answer, "without a number in data")
    return Decimal(data)


def _pause(number: int, retry_after: float | None) -> float:
    longest: float = min(BACKOFF_MOST_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** (number - 1))
    jitter = random.uniform(0.5, 1.0) * longest  # noqa: S311 — spreads requests, hides nothing
    return jitter if retry_after is None else retry_after + jitter / 2
