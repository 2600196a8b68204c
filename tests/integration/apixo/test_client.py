"""Every way a request can end, on real sockets: which error it raises, and how many requests were sent."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import socket
import ssl
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from i2v.apixo.client import ApixoClient
from i2v.apixo.models import TaskState, submit_body
from i2v.errors import (
    AccountRejected,
    AnswerLost,
    BadAnswer,
    Busy,
    ContentRejected,
    I2vError,
    NothingSent,
    ProviderError,
    Rejected,
    TaskRejected,
    UsageError,
)
from i2v.request import Request
from i2v.settings import Settings
from tests.support.certificate_authority import own_authority
from tests.support.raw_server import RawServer, Responder, drip, hang, hang_up, pour, reset, running, send, send_json

KEY = "sk-test-0123456789"
BODY = submit_body(Request(prompt="a cat waves"), "https://b.example/cat.jpg?X-Amz-Signature=hush")
ACCEPTED = send_json(200, {"code": 200, "message": "success", "data": {"taskId": "task_1"}})
PAID = {"code": 500, "message": "odd", "data": {"taskId": 7001, "failCode": "Timeout"}}
PAID_AND_SILENT = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (
    len(json.dumps(PAID)),
    json.dumps(PAID).encode(),
)
HTML = b"<html><body>502 Bad Gateway</body></html>"
MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_client(make_settings: MakeSettings) -> Callable[..., ApixoClient]:
    """Make a client for a base URL and other variables."""

    def make(url: str, **variables: Any) -> ApixoClient:
        settings = make_settings(APIXO_API_KEY=KEY, APIXO_BASE_URL=url, I2V_PRIVATE_HOSTS="127.0.0.1", **variables)
        return ApixoClient(settings)

    return make


MakeClient = Callable[..., ApixoClient]


@pytest.fixture
def authority(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context, and the certificate of the authority that signed it."""
    return own_authority(tmp_path, "127.0.0.1")


def _refusal(status: int, message: str = "words", **data: str) -> Responder:
    return send_json(status, {"code": status, "message": message, "data": data or None})


def _answer(code: int, message: str = "words", **data: str) -> Responder:
    return send_json(200, {"code": code, "message": message, "data": data or None})


@asynccontextmanager
async def _client_of(
    make_client: MakeClient, *responders: Responder, read_body: bool = True, **variables: Any
) -> AsyncIterator[tuple[RawServer, ApixoClient]]:
    async with running(*responders, read_body=read_body) as server, make_client(server.url, **variables) as client:
        yield server, client


async def _submit_error(client: ApixoClient, seconds: float = 5) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        async with client.limiter:
            await client.submit(BODY, timeout=seconds)
    return caught.value


ENDINGS: dict[str, tuple[Responder, type[ProviderError], float]] = {
    "reset after the body was read": (reset, AnswerLost, 5),
    "closed after the body was read": (hang_up, AnswerLost, 5),
    "read timeout": (hang, AnswerLost, 1.5),
    "dripping answer": (drip(200), AnswerLost, 1.5),
    "endless body": (pour(200), AnswerLost, 5),
    "body shorter than declared": (send(200, b'{"code": 200', declared=500, close=True), AnswerLost, 5),
    "no HTTP at all": (lambda exchange: _raw(exchange, b"hello\r\n\r\n"), AnswerLost, 5),
    "504 in an envelope": (_refusal(504), AnswerLost, 5),
    "504 HTML": (send(504, HTML), AnswerLost, 5),
    "502 HTML": (send(502, HTML), AnswerLost, 5),
    "502 empty": (send(502), AnswerLost, 5),
    "503 of another code": (send_json(503, {"code": 500, "message": "x"}), AnswerLost, 5),
    "200 garbage": (send(200, b"\x00\xffgarbage"), AnswerLost, 5),
    "200 empty": (send(200), AnswerLost, 5),
    "200 without a task id": (_answer(200), AnswerLost, 5),
    "200 with a broken compression": (send(200, b"not gzip", Content_Encoding="gzip"), AnswerLost, 5),
    "301": (send(301, b"", Location="/elsewhere"), AnswerLost, 5),
    "307": (send(307, b"", Location="/elsewhere"), AnswerLost, 5),
    "401 HTML": (send(401, HTML), AnswerLost, 5),
    "200 with a content fail code": (_answer(200, failCode="NSFW"), ContentRejected, 5),
    "200 with an unknown fail code": (_answer(200, failCode="Odd"), TaskRejected, 5),
    "400": (_refusal(400), Rejected, 5),
    "400 for content": (_refusal(400, "Prohibited content detected"), ContentRejected, 5),
    "401": (_refusal(401), AccountRejected, 5),
    "402": (_refusal(402), AccountRejected, 5),
    "403 for permission": (_refusal(403, "Key cannot access the model"), AccountRejected, 5),
    "403 for balance": (_refusal(403, "Insufficient balance"), AccountRejected, 5),
    "403 for content": (_refusal(403, "Content violates policy"), ContentRejected, 5),
    "404": (_refusal(404), Rejected, 5),
    "429": (_refusal(429), Busy, 5),
    "429 HTML": (send(429, HTML), Busy, 5),
    "429 with half a body": (send(429, b"{", declared=500, close=True), Busy, 5),
    "429 dripping": (drip(429), Busy, 10),
    "500": (_refusal(500), Busy, 5),
    "502": (_refusal(502), Busy, 5),
    "503": (_refusal(503), Busy, 5),
}


async def _raw(exchange: Any, raw: bytes) -> None:
    exchange.writer.write(raw)
    await exchange.writer.drain()


@pytest.mark.parametrize(("responder", "kind", "seconds"), ENDINGS.values(), ids=ENDINGS.keys())
async def test_each_end_of_a_submit_is_one_error_after_one_request(
    responder: Responder, kind: type[ProviderError], seconds: float, make_client: MakeClient
) -> None:
    """Each answer or failure raises its error, and exactly one POST was sent."""
    async with _client_of(make_client, responder) as (server, client):
        began = time.monotonic()
        error = await _submit_error(client, seconds)
        assert type(error) is kind
        assert len(server.requests) == 1
        assert time.monotonic() - began < seconds + 30
        assert client.limiter.inside == 0
    for secret in (KEY, "hush"):
        assert secret not in str(error)


async def test_an_accepted_submit_returns_its_task_id(make_client: MakeClient) -> None:
    """One POST with key, User-Agent and JSON body returns the task id."""
    async with _client_of(make_client, ACCEPTED) as (server, client):
        assert await client.submit(BODY) == "task_1"
        (seen,) = server.requests
    assert seen.head.startswith("POST /generateTask/hailuo-2-3-fast HTTP/1.1")
    assert seen.header("authorization") == f"Bearer {KEY}"
    assert seen.header("content-type") == "application/json"
    assert seen.header("user-agent").startswith("i2v/")
    assert json.loads(seen.body) == BODY.wire()


@pytest.mark.parametrize(
    "answer",
    [
        *(send_json(status, PAID) for status in (201, 302, 400, 401, 429, 500, 503, 504)),
        send(200, json.dumps(PAID).encode(), declared=5000, close=True),
        send(429, json.dumps(PAID).encode(), declared=5000, close=True),
        lambda exchange: _raw(exchange, PAID_AND_SILENT),
        send(200, gzip.compress(json.dumps(PAID).encode()), Content_Encoding="gzip"),
        send(200, json.dumps(PAID).encode(), Content_Encoding="gzip"),
        send(200, json.dumps(PAID).encode(), Content_Encoding="utf-8"),
        send(200, gzip.compress(json.dumps(PAID).encode()), declared=5000, close=True, Content_Encoding="gzip"),
    ],
    ids=[
        *("201", "302", "400", "401", "429", "500", "503", "504", "200 cut", "429 cut", "200 that never ends"),
        *("gzip", "gzip as claimed", "an unknown coding", "gzip cut"),
    ],
)
async def test_an_answer_with_a_task_id_is_an_acceptance(answer: Responder, make_client: MakeClient) -> None:
    """A task id is returned whatever the status, also if the connection broke after it; one POST was sent."""
    async with _client_of(make_client, answer, I2V_MAX_CONNECTIONS=8) as (server, client):
        assert await client.submit(BODY, timeout=1.5) == "7001"
        assert len(server.requests) == 1


async def test_a_429_with_a_task_id_slows_down(make_client: MakeClient) -> None:
    """An accepted submit whose status is 429 halves the limit, like every 429."""
    async with _client_of(make_client, send_json(429, PAID), I2V_MAX_CONNECTIONS=8) as (_, client):
        await client.submit(BODY)
        assert client.limiter.allowed == 4


async def test_a_part_of_an_answer_is_shown(make_client: MakeClient) -> None:
    """AnswerLost repeats what came before the connection broke, without secrets."""
    part = b'{"code": 200, "data": {"taskId": "task_77 https://b.example/?hush'
    async with _client_of(make_client, send(200, part, declared=5000, close=True)) as (_, client):
        error = await _submit_error(client)
    assert type(error) is AnswerLost
    assert '"taskId": "task_77' in error.message
    assert "hush" not in error.message


class NotNow(I2vError):
    """What a test's `before_send` raises."""


def _refuse() -> None:
    raise NotNow("too late")


@asynccontextmanager
async def _slow_tls_server(context: ssl.SSLContext, seconds: float) -> AsyncIterator[tuple[str, bytearray]]:
    """Start a TLS server that delays the handshake; return its URL and the plain bytes that it receives."""
    received, listener = bytearray(), socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener.accept()[0] as plain, contextlib.suppress(OSError):
            time.sleep(seconds)
            with context.wrap_socket(plain, server_side=True) as encrypted:
                while data := encrypted.recv(1000):
                    received.extend(data)

    with listener:
        serving = asyncio.create_task(asyncio.to_thread(serve))
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", received
        await serving


async def test_a_refusal_after_a_slow_connect_sends_nothing(
    make_client: MakeClient, authority: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`before_send` runs after the handshake; if it raises, no byte arrives and its error is raised unchanged."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[1]))
    refusal, called = NotNow("too late"), []

    def refuse() -> None:
        called.append(time.monotonic())
        raise refusal

    async with _slow_tls_server(authority[0], 0.7) as (url, received), make_client(url) as client:
        began = time.monotonic()
        with pytest.raises(NotNow) as caught:
            await client.submit(BODY, timeout=5, before_send=refuse)
    assert received == b""
    assert caught.value is refusal
    assert len(called) == 1
    assert called[0] - began >= 0.7


async def test_a_refused_submit_gives_its_connection_back(make_client: MakeClient) -> None:
    """After more refusals than there are connections, the next submit is sent."""
    async with _client_of(make_client, ACCEPTED, I2V_MAX_CONNECTIONS=2) as (server, client):
        for _ in range(5):
            with pytest.raises(NotNow):
                await client.submit(BODY, timeout=30, before_send=_refuse)
        assert server.requests == []
        assert await client.submit(BODY, timeout=30) == "task_1"


async def test_before_send_is_called_once_and_may_allow(make_client: MakeClient) -> None:
    """A `before_send` that returns lets the request go; a status request does not call it."""
    calls: list[int] = []
    async with _client_of(make_client, _either) as (server, client):
        assert await client.submit(BODY, before_send=lambda: calls.append(len(server.requests))) == "task_1"
        await client.status("t")
    assert calls == [0]


async def test_before_send_is_not_called_without_a_connection(make_client: MakeClient) -> None:
    """A refused connection is NothingSent, and `before_send` is not called."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        async with make_client(f"http://127.0.0.1:{free.getsockname()[1]}") as client:
            with pytest.raises(NothingSent):
                await client.submit(BODY, before_send=_refuse)


async def test_an_error_after_before_send_is_a_lost_answer(make_client: MakeClient) -> None:
    """Once `before_send` has allowed the request, a reset is AnswerLost."""
    async with _client_of(make_client, reset) as (_, client):
        with pytest.raises(AnswerLost):
            await client.submit(BODY, before_send=lambda: None)


async def test_a_reset_before_the_body_was_read_is_a_lost_answer(make_client: MakeClient) -> None:
    """A reset is AnswerLost, since the server may have read the request."""
    async with _client_of(make_client, reset, read_body=False) as (server, client):
        assert type(await _submit_error(client)) is AnswerLost
        assert len(server.requests) == 1


async def test_a_refused_connection_sent_nothing(make_client: MakeClient) -> None:
    """A refused connection is NothingSent."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        async with make_client(f"http://127.0.0.1:{free.getsockname()[1]}") as client:
            assert type(await _submit_error(client)) is NothingSent


async def test_an_unknown_host_sent_nothing(make_client: MakeClient) -> None:
    """A host name that does not resolve is NothingSent."""
    async with make_client("https://nobody.invalid/api/v1") as client:
        assert type(await _submit_error(client, 30)) is NothingSent


async def test_a_failed_handshake_sent_nothing(make_client: MakeClient) -> None:
    """A failed TLS handshake is NothingSent."""
    async with running(send(200)) as server, make_client(server.url.replace("http:", "https:")) as client:
        assert type(await _submit_error(client)) is NothingSent
        assert server.requests == []


async def test_an_untrusted_certificate_sent_nothing(
    make_client: MakeClient, authority: tuple[ssl.SSLContext, Path]
) -> None:
    """An untrusted certificate ends the connection before the request."""
    async with running(ACCEPTED, context=authority[0]) as server, make_client(server.url) as client:
        assert type(await _submit_error(client)) is NothingSent
        assert server.requests == []


async def test_ssl_cert_file_is_trusted(
    make_client: MakeClient, authority: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate signed by the authority in `SSL_CERT_FILE` is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[1]))
    async with running(ACCEPTED, context=authority[0]) as server, make_client(server.url) as client:
        assert await client.submit(BODY) == "task_1"


async def test_a_hanging_handshake_sent_nothing(make_client: MakeClient) -> None:
    """A hanging handshake ends as a connect timeout, well before the total time is over."""
    async with running(hang) as server, make_client(server.url.replace("http:", "https:")) as client:
        assert type(await _submit_error(client, 2)) is NothingSent
        assert server.requests == []


def _closing(responder: Responder, seconds: float) -> Responder:
    async def answer_then_close(exchange: Any) -> None:
        await responder(exchange)
        asyncio.get_running_loop().call_later(seconds, exchange.writer.close)

    return answer_then_close


async def test_an_idle_connection_that_closes_loses_no_answer(make_client: MakeClient) -> None:
    """All of 300 submits are accepted by a server that closes connections just as they may be reused."""
    async with _client_of(make_client, _closing(ACCEPTED, 0.0005), I2V_MAX_CONNECTIONS=4) as (server, client):

        async def one() -> str:
            async with client.limiter:
                return await client.submit(BODY)

        assert await asyncio.gather(*(one() for _ in range(300))) == ["task_1"] * 300
        assert len(server.requests) == 300


async def test_a_submit_opens_its_own_connection(make_client: MakeClient) -> None:
    """A submit reuses no connection of another submit or of a status request."""
    async with _client_of(make_client, _either) as (server, client):
        await client.status("t")
        for _ in range(3):
            await client.submit(BODY)
        assert [seen.connection for seen in server.requests] == [1, 2, 3, 4]


async def test_a_status_reuses_a_connection_for_a_second(make_client: MakeClient) -> None:
    """A connection is reused at once, and not after more than a second of idling."""
    async with _client_of(make_client, _either) as (server, client):
        await client.status("t")
        await client.status("t")
        assert server.connections == 1
        await asyncio.sleep(1.1)
        await client.status("t")
        assert server.connections == 2


async def test_a_status_over_a_closed_connection_is_retried(make_client: MakeClient) -> None:
    """A status request is retried if the server has closed its connection."""
    async with _client_of(make_client, _closing(_either, 0.0005)) as (_, client):
        for _ in range(20):
            assert (await client.status("t")).state is TaskState.RUNNING


async def test_a_body_has_a_size_limit(make_client: MakeClient) -> None:
    """A body of more than 1 MiB is AnswerLost, long before the timeout."""
    async with _client_of(make_client, pour(200)) as (_, client):
        began = time.monotonic()
        assert "1048576 bytes" in str(await _submit_error(client, 200))
        assert time.monotonic() - began < 60


async def test_an_answer_has_a_size_limit_once_unpacked(make_client: MakeClient) -> None:
    """A bomb of 32 MB is AnswerLost for a submit and BadAnswer for a status; a few MB of memory are used."""
    bomb = send(200, gzip.compress(b" " * (32 << 20)), Content_Encoding="gzip")
    async with _client_of(make_client, bomb) as (server, client):
        tracemalloc.start()
        assert type(await _submit_error(client, 60)) is AnswerLost
        with pytest.raises(BadAnswer):
            await client.status("t", tries=1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(server.requests) == 2
    assert peak < 8 << 20


async def test_a_429_slows_down_and_carries_retry_after(make_client: MakeClient) -> None:
    """The error has the seconds of Retry-After, and the limiter admits fewer requests."""
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    responders = [send(429, HTML, Retry_After="7"), send(429, HTML, Retry_After=moment), send(429, HTML)]
    async with _client_of(make_client, *responders, I2V_MAX_CONNECTIONS=8) as (_, client):
        assert (await _submit_error(client)).retry_after == 7
        assert client.limiter.allowed == 4
        assert (await _submit_error(client)).retry_after == pytest.approx(60, abs=3)
        assert (await _submit_error(client)).retry_after is None


async def test_a_cancelled_submit_raises_cancelled(make_client: MakeClient) -> None:
    """A cancel ends the submit at once, after one request, and frees the limiter."""
    async with _client_of(make_client, hang) as (server, client):
        task = asyncio.create_task(_submit_error(client))
        await server.request_received.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(server.requests) == 1
        assert client.limiter.inside == 0


def _status(state: str, **data: object) -> Responder:
    return send_json(200, {"code": 200, "message": "success", "data": {"taskId": "t", "state": state, **data}})


@pytest.mark.parametrize(
    "first",
    [reset, hang_up, send(502, HTML), send(504), send(200, HTML), _refusal(500), _refusal(429), _status("success")],
    ids=["reset", "closed", "502", "504", "garbage", "500", "429", "success without a video"],
)
async def test_a_failed_status_is_retried(first: Responder, make_client: MakeClient) -> None:
    """After one transient failure of any kind, the second answer is returned."""
    async with _client_of(make_client, first, _status("processing")) as (server, client):
        assert (await client.status("t")).state is TaskState.RUNNING
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("responder", "kind"),
    [
        (_refusal(401), AccountRejected),
        (_refusal(403), AccountRejected),
        (_refusal(404), Rejected),
        (send(404, HTML), Rejected),
    ],
)
async def test_a_refused_status_is_not_retried(
    responder: Responder, kind: type[ProviderError], make_client: MakeClient
) -> None:
    """401, 403 and 404 are raised at once and name the request."""
    async with _client_of(make_client, responder) as (server, client):
        with pytest.raises(kind, match="GET /statusTask/hailuo-2-3-fast"):
            await client.status("t")
        assert len(server.requests) == 1


async def test_a_status_request_gives_up(make_client: MakeClient) -> None:
    """The last error is raised after `tries` attempts, or if the next would start too late."""
    async with _client_of(make_client, send(502, HTML)) as (server, client):
        with pytest.raises(Busy):
            await client.status("t", tries=2)
        assert len(server.requests) == 2
        with pytest.raises(Busy):
            await client.status("t", within=0.1)
        assert len(server.requests) == 3


async def test_a_status_honors_retry_after(make_client: MakeClient) -> None:
    """A Retry-After of 1 s is waited for; one beyond `within` is raised at once."""
    async with _client_of(make_client, send(429, Retry_After="1"), _status("processing")) as (_, client):
        began = time.monotonic()
        await client.status("t")
        assert time.monotonic() - began >= 1
    async with _client_of(make_client, send(429, Retry_After="3600")) as (server, client):
        with pytest.raises(Busy) as caught:
            await client.status("t")
        assert caught.value.retry_after == 3600
        assert len(server.requests) == 1


@pytest.mark.parametrize("task_id", ["a/b?c=d&e", "../x", "ä +%41#", "32a1"])
async def test_a_task_id_is_opaque(task_id: str, make_client: MakeClient) -> None:
    """A task id with any characters arrives unchanged, as the parameter only."""
    async with _client_of(make_client, _refusal(404)) as (server, client):
        with pytest.raises(Rejected):
            await client.status(task_id)
        (seen,) = server.requests
    path, _, query = seen.target.partition("?")
    assert path == "/statusTask/hailuo-2-3-fast"
    assert parse_qs(query) == {"taskId": [task_id]}


async def test_the_balance_is_exact(make_client: MakeClient) -> None:
    """The balance keeps all digits of the answer."""
    text = b'{"code": 200, "message": "success", "data": 74.8700000000000000001}'
    async with _client_of(make_client, send(200, text), _answer(200)) as (server, client):
        assert await client.balance() == Decimal("74.8700000000000000001")
        assert server.requests[0].target == "/apikeys/current-balance"


@pytest.mark.parametrize("data", [None, "74.87", True, {"balance": 1}])
async def test_a_balance_that_is_not_a_number_is_an_error(data: object, make_client: MakeClient) -> None:
    """A balance of the wrong type is a BadAnswer that names the request."""
    responder = send_json(200, {"code": 200, "message": "success", "data": data})
    async with _client_of(make_client, responder) as (_, client):
        with pytest.raises(BadAnswer, match=r"GET /apikeys/current-balance .* without a number"):
            await client.balance(tries=1)


async def test_a_balance_error_names_its_cause(make_client: MakeClient) -> None:
    """401 is AccountRejected, and no connection is NothingSent."""
    async with _client_of(make_client, _refusal(401)) as (_, client):
        with pytest.raises(AccountRejected, match="APIXO_API_KEY"):
            await client.balance()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        async with make_client(f"http://127.0.0.1:{free.getsockname()[1]}") as client:
            with pytest.raises(NothingSent):
                await client.balance(tries=1)


async def test_a_base_url_with_a_path_is_kept(make_client: MakeClient) -> None:
    """The base URL keeps its path."""
    async with running(ACCEPTED) as server, make_client(f"{server.url}/api/v1/") as client:
        await client.submit(BODY)
        assert server.requests[0].target == "/api/v1/generateTask/hailuo-2-3-fast"


async def test_no_log_holds_a_url_or_the_key(make_client: MakeClient, caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG level, no log has a URL, the key or a task id."""
    caplog.set_level(logging.DEBUG)
    async with _client_of(make_client, ACCEPTED, _status("processing")) as (_, client):
        await client.submit(BODY)
        await client.status("t")
    for secret in (KEY, "hush", "taskId", "127.0.0.1"):
        assert secret not in caplog.text


@pytest.mark.parametrize("key", ["sk a", "sk\nb", "schlüssel", " "])
def test_an_invalid_key_is_refused_at_the_start(key: str, make_settings: MakeSettings) -> None:
    """A key that is not valid in a header is a UsageError that does not show it."""
    with pytest.raises(UsageError, match="APIXO_API_KEY") as caught:
        ApixoClient(make_settings(APIXO_API_KEY=key))
    assert key.strip() == "" or key not in str(caught.value)


def test_a_line_end_after_the_key_is_ignored(make_settings: MakeSettings) -> None:
    """A key with a trailing line end works."""
    assert ApixoClient(make_settings(APIXO_API_KEY=f"{KEY}\n")).limiter.allowed == 24


async def test_the_limiter_bounds_concurrent_requests(make_client: MakeClient) -> None:
    """Of 300 submits and 300 status requests at most 4 run at a time, and each is sent once."""
    under_way = most = 0

    async def counted(exchange: Any) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        await _either(exchange)

    async with _client_of(make_client, counted, I2V_MAX_CONNECTIONS=4) as (server, client):

        async def one(number: int) -> None:
            async with client.limiter:
                await client.submit(BODY)
            await client.status(f"t{number}")

        await asyncio.gather(*(one(number) for number in range(300)))
        assert most <= 4
        assert len(server.requests) == 600


async def _either(exchange: Any) -> None:
    if exchange.head.startswith("POST"):
        await ACCEPTED(exchange)
    else:
        task_id = exchange.target.rpartition("=")[2]
        data = {"taskId": task_id, "state": "processing"}
        await send_json(200, {"code": 200, "message": "success", "data": data})(exchange)
