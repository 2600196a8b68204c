"""TLS errors of results and of the provider, with real certificates: each is named, with what to do."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from i2v.apixo.client import ApixoClient
from i2v.errors import FetchError, NothingSent, UsageError
from i2v.net.fetcher import Fetcher
from i2v.net.tls import tls_context
from tests.support.certificate_authority import own_authority, self_signed
from tests.support.raw_server import running, send
from tests.support.settings import MakeSettings

HOST = "127.0.0.1"


def _trusted(folder: Path, names: list[str], *, expired: bool = False) -> tuple[ssl.SSLContext, Path]:
    (folder / "trusted").mkdir()
    return own_authority(folder / "trusted", *names, expired=expired)


def _expired(folder: Path) -> tuple[ssl.SSLContext, Path]:
    return _trusted(folder, [HOST], expired=True)


def _another_host(folder: Path) -> tuple[ssl.SSLContext, Path]:
    return _trusted(folder, ["files.example", "127.0.0.2"])


def _unknown_authority(folder: Path) -> tuple[ssl.SSLContext, Path]:
    return own_authority(folder, HOST)[0], _trusted(folder, [HOST])[1]


def _self_signed(folder: Path) -> tuple[ssl.SSLContext, Path]:
    return self_signed(folder, HOST), _trusted(folder, [HOST])[1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_expired, "TLS: its certificate has expired"),
        (_another_host, "TLS: its certificate is for another IP address"),
        (_unknown_authority, r"TLS: its certificate is from an unknown CA\. If you trust it, set SSL_CERT_FILE"),
        (_self_signed, r"TLS: its certificate is self-signed\. If you trust it, set SSL_CERT_FILE"),
    ],
)
async def test_a_bad_certificate_is_named(
    make: Callable[[Path], tuple[ssl.SSLContext, Path]],
    words: str,
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The error of a result and of the provider says what is wrong with the certificate, and no request is sent."""
    context, trusted = make(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    async with running(send(200), context=context) as server:
        settings = make_settings(I2V_PRIVATE_HOSTS=HOST, APIXO_API_KEY="key", APIXO_BASE_URL=server.url)
        async with Fetcher(settings) as fetcher, ApixoClient(settings) as client:
            with pytest.raises(FetchError, match=words):
                await fetcher.fetch_bytes(server.url, limit=1)
            with pytest.raises(NothingSent, match=words):
                await client.balance(tries=1)
        assert server.requests == []


async def test_a_server_without_tls_is_named(make_settings: MakeSettings) -> None:
    """A server that does not use TLS is named as such."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, HOST, 0) as server:
        url = f"https://{HOST}:{server.sockets[0].getsockname()[1]}"
        settings = make_settings(I2V_PRIVATE_HOSTS=HOST, APIXO_API_KEY="key", APIXO_BASE_URL=url)
        async with Fetcher(settings) as fetcher, ApixoClient(settings) as client:
            with pytest.raises(FetchError, match="TLS: the server does not use TLS on this port"):
                await fetcher.fetch_bytes(url, limit=1)
            with pytest.raises(NothingSent, match="TLS: the server does not use TLS on this port"):
                await client.balance(tries=1)


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_certificates_that_cannot_be_read_are_named(
    content: bytes | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A missing or invalid SSL_CERT_FILE is a UsageError that names it."""
    path = tmp_path / "ca.pem"
    if content:
        path.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(UsageError, match=f"SSL_CERT_FILE={path} cannot be used"):
        tls_context()
