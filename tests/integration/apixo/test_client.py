"""Real sockets play every ending that a request can have: what it means, and how many requests came."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import time
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
    NothingSent,
    ProviderError,
    Rejected,
    TaskRejected,
    UsageError,
)
from i2v.request import Request
from i2v.settings import Settings
from tests.support.certificate_authority import own_authority
from tests.support.raw_server import Play, RawServer, drip, hang, hang_up, pour, reset, running, send, send_json

KEY = "sk-test-0123456789"
BODY = submit_body(Request(prompt="a cat waves"), "https://b.example/cat.jpg?X-Amz-Signature=hush")
ACCEPTED = send_json(200, {"code": 200, "message": "success", "data": {"taskId": "task_1"}})
HTML = b"<html><body>502 Bad Gateway</body></html>"
MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_client(make_settings: MakeSettings) -> Callable[..., ApixoClient]:
    """A client of this base URL; other variables as they are given."""

    def make(url: str, **variables: Any) -> ApixoClient:
        return ApixoClient(make_settings(APIXO_API_KEY=KEY, APIXO_BASE_URL=url, **variables))

    return make


MakeClient = Callable[..., ApixoClient]


@pytest.fixture
def authority(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context and the authority that vouches for it."""
    return own_authority(tmp_path, "127.0.0.1")


def _refusal(status: int, message: str = "words", **data: str) -> Play:
    return send_json(status, {"code": status, "message": message, "data": data or None})


def _said(code: int, message: str = "words", **data: str) -> Play:
    return send_json(200, {"code": code, "message": message, "data": data or None})


@asynccontextmanager
async def _client_of(
    make_client: MakeClient, *plays: Play, read_body: bool = True, **variables: Any
) -> AsyncIterator[tuple[RawServer, ApixoClient]]:
    async with running(*plays, read_body=read_body) as server, make_client(server.url, **variables) as client:
        yield server, client


async def _submit_error(client: ApixoClient, seconds: float = 5) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        async with client.gate:
            await client.submit(BODY, timeout=seconds)
    return caught.value


ENDINGS: dict[str, tuple[Play, type[ProviderError], float]] = {
    "reset after the body was read": (reset, AnswerLost, 5),
    "closed after the body was read": (hang_up, AnswerLost, 5),
    "read timeout": (hang, AnswerLost, 0.3),
    "dripping answer": (drip(200), AnswerLost, 0.4),
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
    "200 without a task id": (_said(200), AnswerLost, 5),
    "200 with a broken compression": (send(200, b"not gzip", Content_Encoding="gzip"), AnswerLost, 5),
    "301": (send(301, b"", Location="/elsewhere"), AnswerLost, 5),
    "307": (send(307, b"", Location="/elsewhere"), AnswerLost, 5),
    "401 HTML": (send(401, HTML), AnswerLost, 5),
    "200 with a content fail code": (_said(200, failCode="NSFW"), ContentRejected, 5),
    "200 with an unknown fail code": (_said(200, failCode="Odd"), TaskRejected, 5),
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


@pytest.mark.parametrize(("play", "kind", "seconds"), ENDINGS.values(), ids=ENDINGS.keys())
async def test_each_ending_of_a_submit_means_one_thing_and_one_request(
    play: Play, kind: type[ProviderError], seconds: float, make_client: MakeClient
) -> None:
    """Whatever the server does, the error is the one that the rules say, and exactly one POST reached it."""
    async with _client_of(make_client, play) as (server, client):
        began = time.monotonic()
        error = await _submit_error(client, seconds)
        assert type(error) is kind
        assert len(server.requests) == 1
        assert time.monotonic() - began < seconds + 1
        assert client.gate.inside == 0
    for secret in (KEY, "hush"):
        assert secret not in str(error)


async def test_an_accepted_submit_is_its_task_id(make_client: MakeClient) -> None:
    """One POST with key, version and JSON body on the wire, and the id that came back."""
    async with _client_of(make_client, ACCEPTED) as (server, client):
        assert await client.submit(BODY) == "task_1"
        (seen,) = server.requests
    assert seen.head.startswith("POST /generateTask/hailuo-2-3-fast HTTP/1.1")
    assert seen.header("authorization") == f"Bearer {KEY}"
    assert seen.header("content-type") == "application/json"
    assert seen.header("user-agent").startswith("i2v/")
    assert json.loads(seen.body) == BODY.wire()


async def test_a_reset_before_the_body_was_read_is_a_lost_answer(make_client: MakeClient) -> None:
    """The server may have read enough: it is not called unsent."""
    async with _client_of(make_client, reset, read_body=False) as (server, client):
        assert type(await _submit_error(client)) is AnswerLost
        assert len(server.requests) == 1


async def test_a_refused_connection_sent_nothing(make_client: MakeClient) -> None:
    """Nobody listens there: safe to send again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        async with make_client(f"http://127.0.0.1:{free.getsockname()[1]}") as client:
            assert type(await _submit_error(client)) is NothingSent


async def test_an_unknown_host_sent_nothing(make_client: MakeClient) -> None:
    """A name that is not known: safe to send again."""
    async with make_client("https://nobody.invalid/api/v1") as client:
        assert type(await _submit_error(client, 30)) is NothingSent


async def test_a_failed_handshake_sent_nothing(make_client: MakeClient) -> None:
    """No TLS on the other side: no connection came about."""
    async with running(send(200)) as server, make_client(server.url.replace("http:", "https:")) as client:
        assert type(await _submit_error(client)) is NothingSent
        assert server.requests == []


async def test_a_certificate_of_nobodys_sent_nothing(
    make_client: MakeClient, authority: tuple[ssl.SSLContext, Path]
) -> None:
    """A certificate that is not trusted ends before the first byte of the request."""
    async with running(ACCEPTED, context=authority[0]) as server, make_client(server.url) as client:
        assert type(await _submit_error(client)) is NothingSent
        assert server.requests == []


async def test_a_certificate_of_the_environments_authority_is_trusted(
    make_client: MakeClient, authority: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`SSL_CERT_FILE` names the authority of a network with its own."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[1]))
    async with running(ACCEPTED, context=authority[0]) as server, make_client(server.url) as client:
        assert await client.submit(BODY) == "task_1"


async def test_a_connection_that_never_comes_about_sent_nothing(make_client: MakeClient) -> None:
    """A handshake that hangs ends as a connect timeout, well before the time in all is over."""
    async with running(hang) as server, make_client(server.url.replace("http:", "https:")) as client:
        assert type(await _submit_error(client, 2)) is NothingSent
        assert server.requests == []


async def test_no_proxy_of_the_environment_comes_between(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`HTTP_PROXY` is not used: a proxy that repeats a request would pay twice."""
    async with running(send(502)) as proxy, running(ACCEPTED) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with make_client(server.url) as client:
            assert await client.submit(BODY) == "task_1"
        assert proxy.connections == 0


def _closing(play: Play, seconds: float) -> Play:
    async def answer_then_close(exchange: Any) -> None:
        await play(exchange)
        asyncio.get_running_loop().call_later(seconds, exchange.writer.close)

    return answer_then_close


async def test_a_connection_closed_while_idle_makes_no_false_unknown(make_client: MakeClient) -> None:
    """The server closes kept connections just as they may be used again: all of 300 submits are still accepted."""
    async with _client_of(make_client, _closing(ACCEPTED, 0.0005), I2V_MAX_CONNECTIONS=4) as (server, client):

        async def one() -> str:
            async with client.gate:
                return await client.submit(BODY)

        assert await asyncio.gather(*(one() for _ in range(300))) == ["task_1"] * 300
        assert len(server.requests) == 300


async def test_a_submit_uses_no_connection_that_was_used_before(make_client: MakeClient) -> None:
    """Neither another submit's nor a status request's, however fresh."""
    async with _client_of(make_client, _either) as (server, client):
        await client.status("t")
        for _ in range(3):
            await client.submit(BODY)
        assert [seen.connection for seen in server.requests] == [1, 2, 3, 4]


async def test_a_reads_connection_is_kept_but_not_beyond_a_second(make_client: MakeClient) -> None:
    """At once again: the same connection. After more than a second: a new one, although the old is still open."""
    async with _client_of(make_client, _either) as (server, client):
        await client.status("t")
        await client.status("t")
        assert server.connections == 1
        await asyncio.sleep(1.1)
        await client.status("t")
        assert server.connections == 2


async def test_a_status_over_a_closed_connection_is_asked_again(make_client: MakeClient) -> None:
    """A kept connection that the server closes between two status requests costs nothing but time."""
    async with _client_of(make_client, _closing(_either, 0.0005)) as (_, client):
        for _ in range(20):
            assert (await client.status("t")).state is TaskState.RUNNING


async def test_an_endless_body_is_cut_off_by_its_size(make_client: MakeClient) -> None:
    """More than a mebibyte is no answer, long before the time is over."""
    async with _client_of(make_client, pour(200)) as (_, client):
        began = time.monotonic()
        assert "1048576 bytes" in str(await _submit_error(client, 60))
        assert time.monotonic() - began < 5


async def test_a_429_narrows_the_gate_and_carries_the_time_to_wait(make_client: MakeClient) -> None:
    """Retry-After in seconds or as a date comes with the error; the whole process slows down."""
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    plays = [send(429, HTML, Retry_After="7"), send(429, HTML, Retry_After=moment), send(429, HTML)]
    async with _client_of(make_client, *plays, I2V_MAX_CONNECTIONS=8) as (_, client):
        assert (await _submit_error(client)).retry_after == 7
        assert client.gate.allowed == 4
        assert (await _submit_error(client)).retry_after == pytest.approx(60, abs=3)
        assert (await _submit_error(client)).retry_after is None


async def test_cancelling_a_submit_is_not_an_answer(make_client: MakeClient) -> None:
    """Cancelled from outside it ends at once as cancelled, after one request, and leaves the gate free."""
    async with _client_of(make_client, hang) as (server, client):
        task = asyncio.create_task(_submit_error(client))
        await server.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(server.requests) == 1
        assert client.gate.inside == 0


def _status(state: str, **data: object) -> Play:
    return send_json(200, {"code": 200, "message": "success", "data": {"taskId": "t", "state": state, **data}})


@pytest.mark.parametrize(
    "first",
    [reset, hang_up, send(502, HTML), send(504), send(200, HTML), _refusal(500), _refusal(429), _status("success")],
    ids=["reset", "closed", "502", "504", "garbage", "500", "429", "success without a video"],
)
async def test_a_status_that_fails_is_asked_again(first: Play, make_client: MakeClient) -> None:
    """Asking is free: after one failure of any passing kind the second answer counts."""
    async with _client_of(make_client, first, _status("processing")) as (server, client):
        assert (await client.status("t")).state is TaskState.RUNNING
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("play", "kind"),
    [
        (_refusal(401), AccountRejected),
        (_refusal(403), AccountRejected),
        (_refusal(404), Rejected),
        (send(404, HTML), Rejected),
    ],
)
async def test_a_status_that_is_refused_is_not_asked_again(
    play: Play, kind: type[ProviderError], make_client: MakeClient
) -> None:
    """401, 403 and 404 come at once and name the request; what they mean for the job is the poller's."""
    async with _client_of(make_client, play) as (server, client):
        with pytest.raises(kind, match="GET /statusTask/hailuo-2-3-fast"):
            await client.status("t")
        assert len(server.requests) == 1


async def test_a_status_gives_up_in_the_end(make_client: MakeClient) -> None:
    """After so many tries, or when the next would come too late, the last error is raised."""
    async with _client_of(make_client, send(502, HTML)) as (server, client):
        with pytest.raises(Busy):
            await client.status("t", tries=2)
        assert len(server.requests) == 2
        with pytest.raises(Busy):
            await client.status("t", within=0.1)
        assert len(server.requests) == 3


async def test_a_status_waits_as_long_as_it_is_asked_to(make_client: MakeClient) -> None:
    """Retry-After of 1 s is waited for; one beyond the time in all is handed to the caller at once."""
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
    """Whatever characters it has, it arrives as it is, and only as the parameter."""
    async with _client_of(make_client, _refusal(404)) as (server, client):
        with pytest.raises(Rejected):
            await client.status(task_id)
        (seen,) = server.requests
    path, _, query = seen.target.partition("?")
    assert path == "/statusTask/hailuo-2-3-fast"
    assert parse_qs(query) == {"taskId": [task_id]}


async def test_the_balance_is_exact(make_client: MakeClient) -> None:
    """A bare number of US dollars, to the last digit of its text."""
    text = b'{"code": 200, "message": "success", "data": 74.8700000000000000001}'
    async with _client_of(make_client, send(200, text), _said(200)) as (server, client):
        assert await client.balance() == Decimal("74.8700000000000000001")
        assert server.requests[0].target == "/apikeys/current-balance"


@pytest.mark.parametrize("data", [None, "74.87", True, {"balance": 1}])
async def test_a_balance_that_is_no_number_is_an_error(data: object, make_client: MakeClient) -> None:
    """A wrong type is a clear error that names the request."""
    play = send_json(200, {"code": 200, "message": "success", "data": data})
    async with _client_of(make_client, play) as (_, client):
        with pytest.raises(BadAnswer, match=r"GET /apikeys/current-balance .* without a number"):
            await client.balance(tries=1)


async def test_a_balance_refused_by_key_or_network_says_which(make_client: MakeClient) -> None:
    """401 is about the account, no connection about the network."""
    async with _client_of(make_client, _refusal(401)) as (_, client):
        with pytest.raises(AccountRejected, match="APIXO_API_KEY"):
            await client.balance()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        async with make_client(f"http://127.0.0.1:{free.getsockname()[1]}") as client:
            with pytest.raises(NothingSent):
                await client.balance(tries=1)


async def test_a_base_url_with_a_path_is_kept(make_client: MakeClient) -> None:
    """`…/api/v1` stays in front of every path."""
    async with running(ACCEPTED) as server, make_client(f"{server.url}/api/v1/") as client:
        await client.submit(BODY)
        assert server.requests[0].target == "/api/v1/generateTask/hailuo-2-3-fast"


async def test_no_log_holds_a_url_or_the_key(make_client: MakeClient, caplog: pytest.LogCaptureFixture) -> None:
    """At the most talkative level, neither the libraries nor we log an address, the key or a task id."""
    caplog.set_level(logging.DEBUG)
    async with _client_of(make_client, ACCEPTED, _status("processing")) as (_, client):
        await client.submit(BODY)
        await client.status("t")
    for secret in (KEY, "hush", "taskId", "127.0.0.1"):
        assert secret not in caplog.text


@pytest.mark.parametrize("key", ["sk a", "sk\nb", "schlüssel", " "])
def test_a_key_that_cannot_be_one_is_refused_at_the_start(key: str, make_settings: MakeSettings) -> None:
    """A key that would break the header is a usage error, not a thousand lost answers; it is not shown."""
    with pytest.raises(UsageError, match="APIXO_API_KEY") as caught:
        ApixoClient(make_settings(APIXO_API_KEY=key))
    assert key.strip() == "" or key not in str(caught.value)


def test_a_line_end_after_the_key_is_forgiven(make_settings: MakeSettings) -> None:
    """A key read from a file with its last line end works."""
    assert ApixoClient(make_settings(APIXO_API_KEY=f"{KEY}\n")).gate.allowed == 24


async def test_hundreds_at_once_are_never_more_than_the_gate_is_wide(make_client: MakeClient) -> None:
    """300 submits and 300 statuses through a gate of 4: never more than 4 under way, and each was asked once."""
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
            async with client.gate:
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
