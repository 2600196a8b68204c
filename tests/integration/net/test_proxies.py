"""The fetcher through a forward proxy: which requests go there, how, and what is checked before."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from i2v.errors import FetchError, UsageError
from i2v.net.fetcher import Fetcher
from tests.support.certificate_authority import own_authority
from tests.support.forward_proxy import running_proxy
from tests.support.raw_server import running, send
from tests.support.settings import MakeSettings

NAMES = {"files.test": "127.0.0.1"}
HERE = send(200, b"here")
MakeFetcher = Callable[..., Fetcher]


@pytest.fixture
def make_fetcher(make_settings: MakeSettings) -> MakeFetcher:
    """Make a fetcher that allows these private hosts."""

    def make(*private_hosts: str, **more: Any) -> Fetcher:
        return Fetcher(make_settings(I2V_PRIVATE_HOSTS=",".join(private_hosts)), **more)

    return make


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy"])
async def test_http_is_forwarded(variable: str, make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to a private host that only the proxy can resolve is sent to the proxy with its whole URL."""
    async with running(HERE) as server, running_proxy(NAMES) as proxy:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        url = f"http://files.test:{server.port}/v.mp4?sig=1"
        async with make_fetcher("files.test") as fetcher:
            assert (await fetcher.fetch_bytes(url, limit=10)).body == b"here"
        assert proxy.lines == [f"GET {url}"]
        assert server.requests[0].header("host") == f"files.test:{server.port}"


def _folders(parent: Path, *names: str) -> Iterator[tuple[Path, str]]:
    for name in names:
        (parent / name).mkdir()
        yield parent / name, name


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("with_tls", [False, True])
async def test_https_goes_through_a_tunnel(
    variable: str, with_tls: bool, make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The proxy, which may itself use TLS, sees the host alone; the certificate is checked for the host's name."""
    (of_server, trusted), (of_proxy, also_trusted) = (
        own_authority(folder, name) for folder, name in _folders(tmp_path, "files.test", "127.0.0.1")
    )
    trusted.write_bytes(trusted.read_bytes() + also_trusted.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    async with (
        running(HERE, context=of_server) as server,
        running_proxy(NAMES, context=of_proxy if with_tls else None) as proxy,
    ):
        monkeypatch.setenv(variable, f"{'https' if with_tls else 'http'}://127.0.0.1:{proxy.port}")
        async with make_fetcher() as fetcher:
            url = f"https://files.test:{server.port}/v.mp4?sig=1"
            assert (await fetcher.fetch_bytes(url, limit=10)).body == b"here"
            assert (await fetcher.fetch_first_byte(url)).status == 200
        assert proxy.lines == [f"CONNECT files.test:{server.port}"] * 2
        assert "sig" not in "".join(proxy.heads)
        assert [request.target for request in server.requests] == ["/v.mp4?sig=1"] * 2


async def test_no_proxy_names_hosts_that_are_reached_directly(
    make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts, domains and host:port of NO_PROXY are not sent to the proxy."""
    async with running(HERE) as server, running_proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        for listed in ("127.0.0.1", f"other.test, 127.0.0.1:{server.port}", "*"):
            monkeypatch.setenv("no_proxy", listed)
            async with make_fetcher("127.0.0.1") as fetcher:
                assert (await fetcher.fetch_bytes(server.url, limit=10)).body == b"here"
        assert proxy.heads == []


async def test_the_proxys_user_is_named(make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """User name and password of the proxy are sent to it, and to no server."""
    async with running(HERE) as server, running_proxy(NAMES, credentials="Basic dTpwQHc=") as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://u:p%40w@127.0.0.1:{proxy.port}")
        async with make_fetcher("files.test") as fetcher:
            assert (await fetcher.fetch_bytes(f"http://files.test:{server.port}/", limit=10)).body == b"here"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_407_is_named(scheme: str, make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that wants a password is named with the status and the variables, without the password."""
    async with running_proxy(NAMES, credentials="Basic x") as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", f"http://user:hush@127.0.0.1:{proxy.port}")
        async with make_fetcher("files.test") as fetcher:
            with pytest.raises(FetchError, match=r"returned 407. Check HTTPS_PROXY and HTTP_PROXY") as caught:
                await fetcher.fetch_bytes(f"{scheme}://files.test/v?sig=hush", limit=10)
    assert "hush" not in repr(caught.value)


async def test_a_proxy_that_is_down_is_named(make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that cannot be reached is named, and not the host."""
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hush@127.0.0.1:1")
    async with make_fetcher() as fetcher:
        with pytest.raises(FetchError, match=r"the proxy 127\.0\.0\.1:1 cannot be reached: .*HTTPS_PROXY") as caught:
            await fetcher.fetch_bytes("https://files.test/v", limit=10)
    assert "hush" not in repr(caught.value)


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1/", "https://localhost/", "https://[::1]/", "https://169.254.169.254/", "http://files.test/"],
)
async def test_private_addresses_are_not_asked_of_the_proxy(
    url: str, make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that resolves here to a private address is forbidden, and so is http; the proxy gets no request."""
    async with running_proxy() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with make_fetcher() as fetcher:
            with pytest.raises(FetchError) as caught:
                await fetcher.fetch_bytes(url, limit=10)
        assert caught.value.forbidden
        assert proxy.heads == []


@pytest.mark.parametrize("value", ["socks5://user:hush@127.0.0.1:1080", "http://", "http://[::1"])
def test_another_kind_of_proxy_is_refused(
    value: str, make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that is not an HTTP proxy is a UsageError that names the variable and not its value."""
    monkeypatch.setenv("https_proxy", value)
    with pytest.raises(UsageError, match="HTTPS_PROXY is not the URL of an HTTP proxy") as caught:
        make_fetcher()
    assert "hush" not in repr(caught.value)
