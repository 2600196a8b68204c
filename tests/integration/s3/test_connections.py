"""How S3 is reached: through a proxy or not, with a private authority or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from i2v.errors import StorageError
from i2v.s3.storage import Storage
from i2v.s3_uri import S3Uri
from tests.support.aws_sessions import made_up_session
from tests.support.certificate_authority import own_authority
from tests.support.raw_server import running, send

URI = S3Uri("b-1", "a")
OBJECT = send(200, b"1", ETag='"e"', Last_Modified="Thu, 26 Nov 2026 10:00:00 GMT")


def storage_at(url: str, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Open a storage at this endpoint that sends each request once."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return Storage(session=made_up_session())


async def test_a_proxy_is_used_except_for_named_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY gets the whole URL of a request; with the host in NO_PROXY, the server is reached directly."""
    async with running(OBJECT) as server, running(OBJECT) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with storage_at(server.url.replace("127.0.0.1", "127.0.0.2"), monkeypatch) as storage:
            assert (await storage.get(URI)).body == b"1"
        assert [request.target for request in proxy.requests] == [f"http://127.0.0.2:{server.port}/b-1/a"]
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with storage_at(server.url, monkeypatch) as storage:
            assert (await storage.get(URI)).body == b"1"
        assert (len(proxy.requests), len(server.requests)) == (1, 1)


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
async def test_a_private_authority_is_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    """Each of the three variables works; without them the error says that it is about TLS, and what to set."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    context, root = own_authority(tmp_path, "127.0.0.1")
    async with running(OBJECT, context=context) as server:
        untrusted = pytest.raises(StorageError, match=r"TLS error: the certificate of https://127.*AWS_CA_BUNDLE")
        with storage_at(server.url, monkeypatch) as storage, untrusted:
            await storage.get(URI)
        monkeypatch.setenv(variable, str(root))
        with storage_at(server.url, monkeypatch) as storage:
            assert (await storage.get(URI)).body == b"1"


async def test_a_wrong_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says that it is the proxy, and shows no password."""
    monkeypatch.setenv("HTTP_PROXY", "http://user:hunter2@127.0.0.1:9")
    named = pytest.raises(StorageError, match="through the proxy")
    with storage_at("http://s3.example", monkeypatch) as storage, named as caught:
        await storage.get(URI)
    assert "hunter2" not in str(caught.value)
