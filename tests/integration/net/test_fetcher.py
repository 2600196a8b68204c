"""Real sockets and certificates: what is fetched, what is refused, and what is left on the disk."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from i2v.errors import FetchError
from i2v.net.fetcher import FetchedBody, Fetcher
from i2v.settings import Settings
from tests.support.certificate_authority import own_authority
from tests.support.raw_server import Play, RawServer, drip, hang, hang_up, in_chunks, pour, raw, reset, running, send

VIDEO = bytes(range(256)) * 4096
MakeSettings = Callable[..., Settings]
MakeFetcher = Callable[..., Fetcher]


@pytest.fixture
def make_fetcher(make_settings: MakeSettings) -> MakeFetcher:
    """A fetcher that may fetch these private hosts."""

    def make(*private_hosts: str, **more: Any) -> Fetcher:
        return Fetcher(make_settings(I2V_PRIVATE_HOSTS=",".join(private_hosts)), **more)

    return make


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's context for files.example and 127.0.0.1, whose authority is trusted."""
    context, root = own_authority(tmp_path, "files.example", "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(root))
    return context


def _host(server: RawServer) -> str:
    return f"127.0.0.1:{server.port}"


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_body_is_fetched_whole_with_its_type(make_fetcher: MakeFetcher) -> None:
    """Bytes and content type as the server gave them; nothing compressed is asked for."""
    async with running(send(200, VIDEO, Content_Type="image/png")) as server, make_fetcher(_host(server)) as fetcher:
        assert await fetcher.fetch_bytes(f"{server.url}/a.png?sig=1", limit=len(VIDEO)) == FetchedBody(
            VIDEO, "image/png"
        )
        assert server.requests[0].target == "/a.png?sig=1"
        assert server.requests[0].header("accept-encoding") == "identity"


async def test_a_file_is_hashed_while_it_is_written(make_fetcher: MakeFetcher, tmp_path: Path) -> None:
    """Size, sha256 and content are those of what was sent."""
    path = tmp_path / "video.mp4"
    async with running(send(200, VIDEO)) as server, make_fetcher(_host(server)) as fetcher:
        fetched = await fetcher.fetch_file(f"{server.url}/v.mp4", path, limit=1 << 30)
    assert fetched == (len(VIDEO), hashlib.sha256(VIDEO).hexdigest(), None)
    assert path.read_bytes() == VIDEO


async def test_a_body_in_chunks_is_fetched_whole(make_fetcher: MakeFetcher) -> None:
    """A server need not declare a length; pieces larger than what is read at once come whole too."""
    pieces = [VIDEO, b"x", VIDEO[: 1 << 17]]
    async with running(in_chunks(*pieces)) as server, make_fetcher(_host(server)) as fetcher:
        assert (await fetcher.fetch_bytes(server.url, limit=1 << 30)).body == b"".join(pieces)


async def test_hints_before_the_answer_are_passed_over(make_fetcher: MakeFetcher) -> None:
    """A server may say 103 and more before it answers."""
    hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    play = raw(hints + b"HTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\nhere and more")
    async with running(play) as server, make_fetcher(_host(server)) as fetcher:
        assert (await fetcher.fetch_bytes(server.url, limit=10)).body == b"here"


async def test_a_body_without_a_length_ends_with_the_connection(make_fetcher: MakeFetcher) -> None:
    """As an old server's does."""
    async with running(raw(b"HTTP/1.0 200 X\r\n\r\nhere")) as server, make_fetcher(_host(server)) as fetcher:
        assert (await fetcher.fetch_bytes(server.url, limit=10)).body == b"here"


FAILURES: dict[str, tuple[Play, str]] = {
    "403": (send(403), "answered 403"),
    "404": (send(404), "answered 404"),
    "500": (send(500), "answered 500"),
    "204": (send(204), "answered 204"),
    "206": (send(206, b"x"), "answered 206"),
    "cut": (send(200, b"half", declared=1000, close=True), "could not be fetched"),
    "cut in chunks": (in_chunks(b"half", ended=False), "could not be fetched"),
    "a long header": (send(200, b"x", Cookie="x" * 1_000_000), "could not be fetched"),
    "no HTTP": (raw(b"220 mail.example ESMTP\r\n"), "could not be fetched"),
    "its request again": (raw(b"GET /v.mp4?sig=hush HTTP/1.1\r\n\r\n"), "could not be fetched"),
    "cut, its length padded": (raw(b"HTTP/1.1 200 X\r\nContent-Length: 200 \r\n\r\nhalf"), "could not be fetched"),
    "a signed length": (raw(b"HTTP/1.1 200 X\r\nContent-Length: +4\r\n\r\nhalf"), "could not be fetched"),
    "two lengths": (raw(b"HTTP/1.1 200 X\r\nContent-Length: 4, 5\r\n\r\nhalf"), "could not be fetched"),
    "no colon": (raw(b"HTTP/1.1 200 X\r\nNonsense\r\nContent-Length: 4\r\n\r\nhalf"), "could not be fetched"),
    "coded twice": (raw(b"HTTP/1.1 200 X\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), "could not be"),
    "too large as declared": (send(200, b"", declared=1 << 30), "too large: 1073741824 bytes"),
    "too large as it came": (pour(200), "too large: more"),
    "dripping": (drip(200), "not done after 0.5 s"),
    "silent": (hang, "not done after 0.5 s"),
    "reset": (reset, "could not be fetched"),
    "closed": (hang_up, "could not be fetched"),
    "compressed": (send(200, gzip.compress(b"x" * 999), Content_Encoding="gzip"), "compressed"),
    "redirect to itself": (send(302, b"", Location="/v.mp4"), "more than 5 redirects"),
    "redirect out of the web": (send(302, b"", Location="file:///etc/passwd"), "no web address"),
    "redirect to nonsense": (send(302, b"", Location="https://[::1"), "could not be fetched"),
}


@pytest.mark.parametrize(("play", "told"), FAILURES.values(), ids=FAILURES.keys())
async def test_what_fails_says_why_and_leaves_no_file(
    play: Play, told: str, make_fetcher: MakeFetcher, tmp_path: Path
) -> None:
    """Whatever the server does, the error names the URL without its query, and no part of a file stays."""
    async with running(play) as server, make_fetcher(_host(server)) as fetcher:
        began = time.monotonic()
        with pytest.raises(FetchError, match=told) as caught:
            await fetcher.fetch_file(f"{server.url}/v.mp4?sig=hush", tmp_path / "v", limit=200_000, total_seconds=0.5)
        assert time.monotonic() - began < 2
    assert "hush" not in str(caught.value)
    assert _names(tmp_path) == []


async def test_silence_is_told_apart_from_slowness(make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that falls silent is not said to have taken all the time there was."""
    monkeypatch.setattr("i2v.net.fetcher.SILENCE_SECONDS", 0.2)
    async with running(hang) as server, make_fetcher(_host(server)) as fetcher:
        with pytest.raises(FetchError, match="fell silent"):
            await fetcher.fetch_bytes(server.url, limit=10, total_seconds=60)


@pytest.mark.parametrize("status", [403, 404, 410, 500])
async def test_the_status_is_told_apart(status: int, make_fetcher: MakeFetcher) -> None:
    """The caller can see an expired URL by its status."""
    async with running(send(status)) as server, make_fetcher(_host(server)) as fetcher:
        with pytest.raises(FetchError) as caught:
            await fetcher.fetch_bytes(server.url, limit=1)
    assert (caught.value.status, caught.value.forbidden) == (status, False)


async def test_cancelling_leaves_no_file(make_fetcher: MakeFetcher, tmp_path: Path) -> None:
    """A download that is cancelled in the middle is gone."""
    path = tmp_path / "v.mp4"
    async with running(drip(200)) as server, make_fetcher(_host(server)) as fetcher:
        task = asyncio.create_task(fetcher.fetch_file(server.url, path, limit=1 << 20))
        async with asyncio.timeout(5):
            while not path.exists():  # noqa: ASYNC110 — the file is what is waited for
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert _names(tmp_path) == []


def _reading() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]


@pytest.mark.parametrize("is_encrypted", [False, True], ids=["its body", "its handshake"])
async def test_cancelling_ends_the_thread_that_reads(is_encrypted: bool, make_fetcher: MakeFetcher) -> None:
    """Who stops waiting for a silent server hangs up, and no thread waits on for it."""
    async with running(drip(200, every=60)) as server, make_fetcher(_host(server)) as fetcher:
        url = f"https://{_host(server)}" if is_encrypted else server.url
        task = asyncio.create_task(fetcher.fetch_bytes(url, limit=1 << 20))
        async with asyncio.timeout(5):
            while not _reading():  # noqa: ASYNC110 — the thread is what is waited for
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        task.cancel()
        assert await asyncio.wait({task}, timeout=5) == ({task}, set())
        assert task.cancelled()
    async with asyncio.timeout(5):
        while _reading():  # noqa: ASYNC110 — as above
            await asyncio.sleep(0.01)


async def test_a_file_that_was_there_is_left_alone_when_nothing_came(make_fetcher: MakeFetcher, tmp_path: Path) -> None:
    """A refused URL does not take an older file with it."""
    path = tmp_path / "v.mp4"
    path.write_bytes(b"older")
    async with make_fetcher() as fetcher:
        with pytest.raises(FetchError):
            await fetcher.fetch_file("https://127.0.0.1/", path, limit=1)
    assert path.read_bytes() == b"older"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "https://127.0.0.1:{port}/",
        "https://localhost:{port}/",
        "https://2130706433:{port}/",
        "https://0x7f000001:{port}/",
        "https://127.1:{port}/",
        "https://0:{port}/",
        "https://[::1]:{port}/",
        "https://[::ffff:127.0.0.1]:{port}/",
        "https://user:pw@127.0.0.1:{port}/",
    ],
)
async def test_nothing_inside_is_touched(url: str, make_fetcher: MakeFetcher) -> None:
    """However a private address is spelled, it is forbidden, and no connection is made."""
    async with running(send(200)) as server, make_fetcher("127.0.0.1:1", "user:pw@127.0.0.1") as fetcher:
        with pytest.raises(FetchError) as caught:
            await fetcher.fetch_bytes(url.format(port=server.port), limit=10)
        assert caught.value.forbidden
        assert server.connections == 0
        assert "pw" not in str(caught.value)


async def test_a_redirect_is_checked_like_the_first_address(make_fetcher: MakeFetcher) -> None:
    """An allowed host that leads to another port of the same machine, or to http elsewhere, leads nowhere."""
    async with running(send(200)) as inner:
        plays = [
            send(302, b"", Location=f"{inner.url}/latest/meta-data"),
            send(302, b"", Location="http://files.example/v.mp4"),
            send(302, b"", Location=f"http://u:p@127.0.0.1:{inner.port}/"),
        ]
        async with running(*plays) as server, make_fetcher(_host(server)) as fetcher:
            for _ in plays:
                with pytest.raises(FetchError) as caught:
                    await fetcher.fetch_bytes(server.url, limit=10)
                assert caught.value.forbidden
        assert inner.connections == 0


async def test_five_redirects_are_followed(make_fetcher: MakeFetcher) -> None:
    """Five are followed, relative ones too, and their bodies are not read."""
    plays = [send(status, b"", declared=1 << 40, Location="/next") for status in (301, 302, 303, 307, 308)]
    async with running(*plays, send(200, b"here")) as server, make_fetcher(_host(server)) as fetcher:
        assert (await fetcher.fetch_bytes(server.url, limit=10)).body == b"here"
        assert [seen.target for seen in server.requests] == ["/"] + ["/next"] * 5


async def test_the_name_is_looked_up_once_and_that_address_is_used(
    make_fetcher: MakeFetcher, authority: ssl.SSLContext
) -> None:
    """A name that changes between check and connection gains nothing; Host, SNI and certificate are the name's."""
    asked: list[str] = []
    names: list[str | None] = []
    authority.sni_callback = lambda _socket, name, _context: names.append(name)

    async def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    async with running(send(200, b"here"), context=authority) as server:
        async with make_fetcher(f"files.example:{server.port}", resolve=resolve) as fetcher:
            url = f"https://files.example:{server.port}/v.mp4"
            assert (await fetcher.fetch_bytes(url, limit=10)).body == b"here"
        assert server.requests[0].header("host") == f"files.example:{server.port}"
    assert asked == ["files.example"]
    assert names == ["files.example"]


async def test_a_certificate_of_another_name_is_refused(make_fetcher: MakeFetcher, authority: ssl.SSLContext) -> None:
    """The certificate must be for the name that was asked for, not for the address that was connected to."""

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    async with running(send(200, b"here"), context=authority) as server:
        async with make_fetcher("other.example", resolve=resolve) as fetcher:
            with pytest.raises(FetchError, match=r"https://other\.example:\d+/ could not be fetched"):
                await fetcher.fetch_bytes(f"https://other.example:{server.port}/?sig", limit=10)
        assert server.requests == []


async def test_the_next_address_is_tried_where_one_does_not_answer(make_fetcher: MakeFetcher) -> None:
    """A name with several addresses is reached at the first that answers."""

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async with running(send(200, b"here")) as server, make_fetcher("files.example", resolve=resolve) as fetcher:
        assert (await fetcher.fetch_bytes(f"http://files.example:{server.port}/", limit=10)).body == b"here"


async def test_a_refused_connection_is_an_error_without_the_query(make_fetcher: MakeFetcher) -> None:
    """Nobody listens: the error names the bare URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
        async with make_fetcher(host) as fetcher:
            with pytest.raises(FetchError, match=f"http://{host}/v could not be fetched: Connection") as caught:
                await fetcher.fetch_bytes(f"http://{host}/v?sig=hush", limit=10)
    assert "hush" not in repr(caught.value)
    assert caught.value.__suppress_context__


async def test_no_proxy_of_the_environment_is_used(make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would look the name up again, past the check."""
    async with running(send(502)) as proxy, running(send(200, b"here")) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with make_fetcher(_host(server)) as fetcher:
            assert (await fetcher.fetch_bytes(server.url, limit=10)).body == b"here"
        assert proxy.connections == 0


async def test_no_cookie_and_no_connection_is_kept(make_fetcher: MakeFetcher) -> None:
    """A host learns nothing about an earlier fetch: each has its own connection and no cookie."""
    play = send(200, b"here", Set_Cookie="session=1; Path=/")
    async with running(play) as server, make_fetcher(_host(server)) as fetcher:
        for _ in range(3):
            await fetcher.fetch_bytes(server.url, limit=10)
        assert server.connections == 3
        assert [seen.header("cookie") for seen in server.requests] == ["", "", ""]


async def test_no_more_than_so_many_at_once(make_fetcher: MakeFetcher) -> None:
    """Of 40 fetches never more than 4 are under way."""
    inside, most = 0, 0

    async def slow(exchange: Any) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.01)
        inside -= 1
        await send(200, b"here")(exchange)

    async with running(slow) as server, make_fetcher(_host(server), connections=4) as fetcher:
        await asyncio.gather(*(fetcher.fetch_bytes(server.url, limit=10) for _ in range(40)))
    assert most == 4


async def test_a_full_disk_is_told_and_leaves_no_file(make_fetcher: MakeFetcher, tmp_path: Path) -> None:
    """What cannot be written is an error of the fetch, in words."""
    path = tmp_path / "v.mp4"
    path.symlink_to("/dev/full")  # a link, since what could not be written is deleted
    async with running(send(200, VIDEO)) as server, make_fetcher(_host(server)) as fetcher:
        with pytest.raises(FetchError, match="No space left"):
            await fetcher.fetch_file(server.url, path, limit=1 << 30)
    assert _names(tmp_path) == []


async def test_no_log_holds_a_signed_url(make_fetcher: MakeFetcher, caplog: pytest.LogCaptureFixture) -> None:
    """At the most talkative level no query is logged."""
    caplog.set_level(logging.DEBUG)
    async with running(send(200)) as server, make_fetcher(_host(server)) as fetcher:
        await fetcher.fetch_bytes(f"{server.url}/?sig=hush", limit=10)
    assert "hush" not in caplog.text
