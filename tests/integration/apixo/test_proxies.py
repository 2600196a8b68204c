"""The provider through a forward proxy: one POST each, `before_send` right before it, and what counts as not sent."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from i2v.apixo.client import ApixoClient
from i2v.apixo.models import submit_body
from i2v.errors import AnswerLost, NothingSent, Rejected
from i2v.request import Request
from tests.support.certificate_authority import own_authority
from tests.support.forward_proxy import ForwardProxy, running_proxy
from tests.support.raw_server import RawServer, Responder, reset, running, send_json
from tests.support.settings import MakeSettings

HOST = "provider.test"
KEY = "sk-test-0123456789"
BODY = submit_body(Request(prompt="a cat waves"), "https://b.example/cat.jpg?X-Amz-Signature=hush")
ACCEPTED = send_json(200, {"code": 200, "message": "success", "data": {"taskId": "task_1"}})
BALANCE = send_json(200, {"code": 200, "message": "success", "data": 5})
Open = Callable[..., Any]


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The TLS context of the provider, which is trusted."""
    context, root = own_authority(tmp_path, HOST)
    monkeypatch.setenv("SSL_CERT_FILE", str(root))
    return context


@pytest.fixture
def open_world(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Open a provider that only a proxy can resolve, that proxy, and a client."""

    @asynccontextmanager
    async def opened(
        *responders: Responder, context: ssl.SSLContext | None = None, connections: int = 8, **proxy_options: Any
    ) -> AsyncIterator[tuple[RawServer, ForwardProxy, ApixoClient]]:
        async with (
            running(*responders, context=context) as server,
            running_proxy({HOST: "127.0.0.1"}, **proxy_options) as proxy,
        ):
            monkeypatch.setenv(f"{server.scheme}_proxy", f"http://user:hush@127.0.0.1:{proxy.port}")
            settings = make_settings(
                APIXO_API_KEY=KEY,
                APIXO_BASE_URL=f"{server.scheme}://{HOST}:{server.port}",
                I2V_PRIVATE_HOSTS=HOST,
                I2V_MAX_CONNECTIONS=connections,
            )
            async with ApixoClient(settings) as client:
                yield server, proxy, client

    return opened


async def _submit(client: ApixoClient, before_send: Callable[[], None] | None = None, seconds: float = 5) -> str:
    async with client.limiter:
        return await client.submit(BODY, timeout=seconds, before_send=before_send)


async def test_each_post_has_its_own_tunnel(open_world: Open, tls: ssl.SSLContext) -> None:
    """Each submit opens a tunnel and sends one POST in it; the proxy sees the host alone."""
    async with open_world(ACCEPTED, context=tls) as (server, proxy, client):
        assert [await _submit(client) for _ in range(3)] == ["task_1"] * 3
        assert proxy.lines == [f"CONNECT {HOST}:{server.port}"] * 3
        assert [seen.connection for seen in server.requests] == [1, 2, 3]
        assert KEY not in "".join(proxy.heads)
        assert "hush" not in "".join(seen.head for seen in server.requests)


async def test_before_send_is_called_after_the_tunnel(open_world: Open, tls: ssl.SSLContext) -> None:
    """`before_send` is called once, when the tunnel is open and no byte of the POST is sent."""
    async with open_world(ACCEPTED, context=tls) as (server, proxy, client):
        seen: list[tuple[int, int]] = []
        await _submit(client, lambda: seen.append((len(proxy.heads), len(server.requests))))
        assert seen == [(1, 0)]


async def test_before_send_can_stop_the_post(open_world: Open, tls: ssl.SSLContext) -> None:
    """What `before_send` raises is raised unchanged, and nothing is sent through the open tunnel."""

    def refuse() -> None:
        raise ZeroDivisionError

    async with open_world(ACCEPTED, context=tls) as (server, proxy, client):
        with pytest.raises(ZeroDivisionError):
            await _submit(client, refuse)
        assert len(proxy.heads) == 1
        assert server.requests == []


@pytest.mark.parametrize("refusal", [{"status": 407}, {"status": 502}, {"credentials": "Basic x"}])
async def test_a_refused_tunnel_sent_nothing(refusal: dict[str, Any], open_world: Open, tls: ssl.SSLContext) -> None:
    """A proxy that opens no tunnel is NothingSent and named, and `before_send` is not called."""
    async with open_world(ACCEPTED, context=tls, **refusal) as (server, proxy, client):
        calls: list[int] = []
        status = refusal.get("status", 407)
        with pytest.raises(NothingSent, match=f"through the proxy 127.0.0.1:{proxy.port}: ProxyError: {status}") as one:
            await _submit(client, lambda: calls.append(1))
        with pytest.raises(NothingSent, match="Check HTTPS_PROXY and HTTP_PROXY, including the user name"):
            await client.balance(tries=1)
        assert calls == []
        assert server.requests == []
    assert "hush" not in str(one.value)


async def test_a_silent_proxy_sent_nothing(
    open_world: Open, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that never answers a CONNECT is NothingSent at the end of the total time."""
    monkeypatch.setattr(ForwardProxy, "_connect", lambda *_: asyncio.sleep(30))
    async with open_world(ACCEPTED, context=tls) as (server, proxy, client):
        with pytest.raises(NothingSent):
            await _submit(client, seconds=0.5)
        assert len(proxy.heads) == 1
        assert server.requests == []


async def test_failed_handshakes_in_tunnels_use_up_no_connections(
    open_world: Open, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After more failed handshakes than there are connections, the error is still that of the handshake."""
    monkeypatch.delenv("SSL_CERT_FILE")
    async with open_world(ACCEPTED, context=tls, connections=2) as (server, proxy, client):
        for _ in range(5):
            with pytest.raises(NothingSent, match="TLS: its certificate is from an unknown CA"):
                await _submit(client)
            with pytest.raises(NothingSent, match="TLS: its certificate is from an unknown CA"):
                await client.balance(tries=1)
        assert len(proxy.heads) == 10
        assert server.requests == []


async def test_an_answer_lost_in_a_tunnel_is_lost(open_world: Open, tls: ssl.SSLContext) -> None:
    """A connection that breaks after the POST is AnswerLost, and the POST is not sent again."""
    async with open_world(reset, context=tls) as (server, _, client):
        with pytest.raises(AnswerLost):
            await _submit(client)
        assert len(server.requests) == 1


async def test_http_is_forwarded(open_world: Open) -> None:
    """Plain http, which only a private host may use, is sent to the proxy with its whole URL, each POST by itself."""
    async with open_world(ACCEPTED, ACCEPTED, BALANCE) as (server, proxy, client):
        seen: list[int] = []
        for _ in range(2):
            assert await _submit(client, lambda: seen.append(len(proxy.heads))) == "task_1"
        assert await client.balance() == 5
        url = f"http://{HOST}:{server.port}"
        assert proxy.lines == [f"POST {url}/generateTask/hailuo-2-3-fast"] * 2 + [f"GET {url}/apikeys/current-balance"]
        assert seen == [0, 1]


async def test_a_forward_that_is_refused_may_be_lost(open_world: Open) -> None:
    """A 407 to a forwarded POST is AnswerLost, since another server may have sent it; to a GET it names the proxy."""
    async with open_world(ACCEPTED, status=407) as (server, _, client):
        with pytest.raises(AnswerLost, match="returned 407"):
            await _submit(client)
        with pytest.raises(Rejected, match=r"returned 407\. Check HTTPS_PROXY and HTTP_PROXY"):
            await client.balance()
        assert server.requests == []


async def test_no_proxy_is_honored(open_world: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host in NO_PROXY is not asked of the proxy."""
    monkeypatch.setenv("NO_PROXY", HOST)
    async with open_world(ACCEPTED) as (_, proxy, client):
        with pytest.raises(NothingSent):
            await _submit(client)
        assert proxy.heads == []
