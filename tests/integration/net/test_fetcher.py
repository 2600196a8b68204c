"""The fetcher over real sockets and with real certificates."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import logging
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from i2v.errors import FetchError
from i2v.net.fetcher import FetchedBody, Fetcher
from i2v.settings import Settings
from tests.support.certificate_authority import own_authority
from tests.support.raw_server import (
    Exchange,
    RawServer,
    Responder,
    drip,
    endless,
    hang,
    hang_up,
    in_chunks,
    pour,
    raw,
    reset,
    running,
    send,
)

VIDEO = bytes(range(256)) * 4096
MakeSettings = Callable[..., Settings]
MakeFetcher = Callable[..., Fetcher]


@pytest.fixture
def make_fetcher(make_settings: MakeSettings) -> MakeFetcher:
    """Make a fetcher that allows these private hosts."""

    def make(*private_hosts: str, **more: Any) -> Fetcher:
        return Fetcher(make_settings(I2V_PRIVATE_HOSTS=",".join(private_hosts)), **more)

    return make


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The TLS context of a trusted server for files.example, 127.0.0.1 and ::1."""
    context, root = own_authority(tmp_path, "files.example", "127.0.0.1", "::1")
    monkeypatch.setenv("SSL_CERT_FILE", str(root))
    return context


def _host(server: RawServer) -> str:
    return f"127.0.0.1:{server.port}"


def _file_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_body_is_fetched_with_its_content_type(make_fetcher: MakeFetcher) -> None:
    """The body and content type are those the server sent; compression is not requested."""
    async with running(send(200, VIDEO, Content_Type="image/png")) as server, make_fetcher(_host(server)) as fetcher:
        assert await fetcher.fetch_bytes(f"{server.url}/a.png?sig=1", limit=len(VIDEO)) == FetchedBody(
            VIDEO, "image/png"
        )
        assert server.requests[0].target == "/a.png?sig=1"
        assert server.requests[0].header("accept-encoding") == "identity"


async def test_a_file_is_written_and_hashed(make_fetcher: MakeFetcher, tmp_path: Path) -> None:
    """Size, SHA-256 and content are those of the body."""
    path = tmp_path / "video.mp4"
    async with running(send(200, VIDEO)) as server, make_fetcher(_host(server)) as fetcher:
        fetched = await fetcher.fetch_file(f"{server.url}/v.mp4", path, limit=1 << 30)
    assert fetched == (len(VIDEO), hashlib.sha256(VIDEO).hexdigest(), None)
    assert path.read_bytes() == VIDEO


async def test_a_chunked_body_is_fetched(make_fetcher: MakeFetcher) -> None:
    """A chunked body is complete, with chunks of one byte and chunks larger than one read."""
    pieces = [VIDEO, *[b"x"] * 1000, VIDEO[: 1 << 17]]
    async with running(in_chunks(*pieces)) as server, make_fetcher(_host(server)) as fetcher:
        assert (await fetcher.fetch_bytes(server.url, limit=1 << 30)).body == b"".join(pieces)


async def test_informational_responses_are_skipped(make_fetcher: MakeFetcher) -> None:
    """Responses 100 and 103 before the final one are skipped."""
    hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    responder = raw(hints + b"HTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\nhere and more")
    async with running(responder) as server, make_fetcher(_host(server)) as fetcher:
        assert (await fetcher.fetch_bytes(server.url, limit=10)).body == b"here"


async def test_a_body_without_a_length_ends_with_the_connection(make_fetcher: MakeFetcher) -> None:
    """A body without a length ends when the server closes the connection."""
    async with running(raw(b"HTTP/1.0 200 X\r\n\r\nhere")) as server, make_fetcher(_host(server)) as fetcher:
        assert (await fetcher.fetch_bytes(server.url, limit=10)).body == b"here"


FAILURES: dict[str, tuple[Responder, str]] = {
    "403": (send(403), "returned 403"),
    "404": (send(404), "returned 404"),
    "500": (send(500), "returned 500"),
    "204": (send(204), "returned 204"),
    "206": (send(206, b"x"), "returned 206"),
    "cut": (send(200, b"half", declared=1000, close=True), "could not be fetched"),
    "cut in chunks": (in_chunks(b"half", ended=False), "could not be fetched"),
    "a long header": (send(200, b"x", Cookie="x" * 1_000_000), "could not be fetched"),
    "no HTTP": (raw(b"220 mail.example ESMTP\r\n"), "could not be fetched"),
    "its request again": (raw(b"GET /v.mp4?sig=hush HTTP/1.1\r\n\r\n"), "could not be fetched"),
    "cut, its length padded": (raw(b"HTTP/1.1 200 X\r\nContent-Length: 200 \r\n\r\nhalf"), "could not be fetched"),
    "a signed length": (raw(b"HTTP/1.1 200 X\r\nContent-Length: +4\r\n\r\nhalf"), "could not be fetched"),
    "two lengths": (raw(b"HTTP/1.1 200 X\r\nContent-Length: 4, 5\r\n\r\nhalf"), "could not be fetched"),
    "cut, after a line without a colon": (
        raw(b"HTTP/1.1 200 X\r\nNonsense\r\nContent-Length: 9\r\n\r\nhalf"),
        "could not be fetched",
    ),
    "cut, its length's name padded": (raw(b"HTTP/1.1 200 X\r\nContent-Length : 9\r\n\r\nhalf"), "could not be"),
    "cut, its length folded": (raw(b"HTTP/1.1 200 X\r\nContent-Length:\r\n 9\r\n\r\nhalf"), "could not be"),
    "cut, a length behind a carriage return": (
        raw(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\nX: a\rContent-Length: 4\r\n\r\nhalf"),
        "could not be",
    ),
    "cut in the head": (raw(b"HTTP/1.1 200 X\r\nContent-Type: video/mp4"), "could not be fetched"),
    "cut, as its range says": (
        raw(b"HTTP/1.1 206 X\r\nContent-Range: bytes 0-9/10\r\nContent-Length: 4\r\n\r\nhalf"),
        "does not have the declared length",
    ),
    "the first half": (send(206, b"half", Content_Range="bytes 0-3/8"), "returned 206"),
    "the second half": (send(206, b"half", Content_Range="bytes 4-7/8"), "returned 206"),
    "half of what is not said": (send(206, b"half", Content_Range="bytes 0-3/*"), "returned 206"),
    "a bomb": (send(200, gzip.compress(bytes(1 << 24)), Content_Encoding="gzip"), "too large: more than 200000 bytes"),
    "a bomb in a bomb": (
        send(200, gzip.compress(gzip.compress(bytes(1 << 24))), Content_Encoding="gzip, gzip"),
        "too large: more than 200000 bytes",
    ),
    "cut gzip": (
        send(200, gzip.compress(VIDEO)[:900], declared=1000, close=True, Content_Encoding="gzip"),
        "could not be fetched",
    ),
    "endless lines that are no headers": (endless(b"Nonsense\r\n" * 1000, b"HTTP/1.1 200 X\r\n"), "not finished after"),
    "contradictory lengths": (
        raw(b"HTTP/1.1 200 X\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nhalf"),
        "could not be",
    ),
    "a length that chunks contradict": (
        raw(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n\r\n"),
        "does not have the declared length",
    ),
    "a repeated length that is too long": (raw(b"HTTP/1.1 200 X\r\nContent-Length: 9, 9\r\n\r\nhalf"), "could not be"),
    "a repeated length that is too short": (
        raw(b"HTTP/1.1 200 X\r\nContent-Length: 2, 2\r\n\r\nhalf"),
        "could not be",
    ),
    "a negative chunk": (raw(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nhalf"), "could not be"),
    "an endless chunk size": (
        raw(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 1_000_000),
        "could not be",
    ),
    "endless informational responses": (endless(b"HTTP/1.1 103 X\r\n\r\n" * 1000), "not finished after 0.5 s"),
    "endless chunks of one byte": (
        endless(b"1\r\nx\r\n" * 1000, b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n"),
        "not finished after 0.5 s|too large",
    ),
    "endless continues": (endless(b"HTTP/1.1 100 X\r\n\r\n" * 1000), "not finished after 0.5 s"),
    "coded twice": (raw(b"HTTP/1.1 200 X\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), "could not be"),
    "too large as declared": (send(200, b"", declared=1 << 30), "too large: 1073741824 bytes"),
    "too large as it came": (pour(200), "too large: more than 200000 bytes"),
    "dripping": (drip(200), "not finished after 0.5 s"),
    "silent": (hang, "not finished after 0.5 s"),
    "reset": (reset, "could not be fetched"),
    "closed": (hang_up, "could not be fetched"),
    "redirect to itself": (send(302, b"", Location="/v.mp4"), "more than 5 redirects"),
    "redirect out of the web": (send(302, b"", Location="file:///etc/passwd"), "not a web address"),
    "redirect to nonsense": (send(302, b"", Location="https://[::1"), "could not be fetched"),
}


@pytest.mark.parametrize(("responder", "message"), FAILURES.values(), ids=FAILURES.keys())
async def test_a_failure_has_a_reason_and_leaves_no_file(
    responder: Responder, message: str, make_fetcher: MakeFetcher, tmp_path: Path
) -> None:
    """The error has the URL without its query, and no partial file is left."""
    async with running(responder) as server, make_fetcher(_host(server)) as fetcher:
        began = time.monotonic()
        with pytest.raises(FetchError, match=message) as caught:
            await fetcher.fetch_file(f"{server.url}/v.mp4?sig=hush", tmp_path / "v", limit=200_000, total_seconds=0.5)
        assert time.monotonic() - began < 30
    assert "hush" not in str(caught.value)
    assert _file_names(tmp_path) == []


def _head(*lines: bytes, status: bytes = b"200 OK", body: bytes = VIDEO) -> Responder:
    return raw(b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"", body]))


def _kept_open(response: bytes) -> Responder:
    async def respond(exchange: Exchange) -> None:
        exchange.writer.write(response)
        await exchange.writer.drain()

    return respond


LENGTH = b"Content-Length: %d" % len(VIDEO)
RANGE = b"Content-Range: bytes 0-%d/%d" % (len(VIDEO) - 1, len(VIDEO))
TAKEN: dict[str, Responder] = {
    "gzip": send(200, gzip.compress(VIDEO), Content_Encoding="gzip"),
    "x-gzip": send(200, gzip.compress(VIDEO), Content_Encoding="X-GZip"),
    "gzip in chunks": _head(
        b"Content-Encoding: gzip",
        b"Transfer-Encoding: chunked",
        body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(gzip.compress(VIDEO, mtime=0)), gzip.compress(VIDEO, mtime=0)),
    ),
    "deflate": send(200, zlib.compress(VIDEO), Content_Encoding="deflate"),
    "raw deflate": send(200, zlib.compress(VIDEO, wbits=-15), Content_Encoding="deflate"),
    "gzip twice": send(200, gzip.compress(gzip.compress(VIDEO)), Content_Encoding="gzip, gzip"),
    "gzip as claimed": _head(b"Content-Encoding: gzip", LENGTH),
    "gzip as claimed, without a length": _head(b"Content-Encoding: gzip"),
    "deflate as claimed": _head(b"Content-Encoding: deflate", LENGTH),
    "an unknown coding": _head(b"Content-Encoding: utf-8", LENGTH),
    "a coding of uploads": _head(b"Content-Encoding: aws-chunked", LENGTH),
    "an empty coding": _head(b"Content-Encoding:", LENGTH),
    "identity": _head(b"Transfer-Encoding: identity", LENGTH),
    "identity as content": _head(b"Content-Encoding: identity", LENGTH),
    "chunked twice": _head(
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: chunked",
        body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(VIDEO), VIDEO),
    ),
    "203": _head(LENGTH, status=b"203 Non-Authoritative Information"),
    "206 of all": _head(RANGE, LENGTH, status=b"206 Partial Content"),
    "206 of all, without a length": _head(RANGE, status=b"206 Partial Content"),
    "no reason": _head(LENGTH, status=b"200"),
    "no colon": _head(b"Nonsense", LENGTH),
    "a name with a slash": _head(b"get-ban-to-cache-result/x.php: userdata not support", LENGTH),
    "a name with a blank": _head(b"X Cache: HIT", LENGTH),
    "a name in UTF-8": _head("X-Größe: 1".encode(), LENGTH),
    "a blank before the colon": _head(b"Content-Length : %d" % len(VIDEO)),
    "a folded line": _head(b"X-Long: a", b"  b", LENGTH),
    "a folded line that is no header's": _head(b" lost", b"X Odd: a", b" b", LENGTH),
    "bare line ends": raw(b"HTTP/1.1 200 OK\n" + LENGTH + b"\n\n" + VIDEO),
    "the same length twice": _head(LENGTH, LENGTH),
    "the same length with a comma": _head(b"Content-Length: %d, %d" % (len(VIDEO), len(VIDEO))),
    "more bytes than announced": _head(LENGTH, body=VIDEO + b"more"),
    "HTTP/1.0, kept open": _kept_open(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + LENGTH + b"\r\n\r\n" + VIDEO),
    "chunks with extensions and trailers": _head(
        b"Transfer-Encoding: chunked", body=b"%x;a=b\r\n%s\r\n0\r\nX: y\r\n\r\n" % (len(VIDEO), VIDEO)
    ),
    "raw bytes in a value": _head(b"Content-Disposition: attachment; filename=\xff\x00.mp4", LENGTH),
    "a length that chunks confirm": _head(
        LENGTH, b"Transfer-Encoding: chunked", body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(VIDEO), VIDEO)
    ),
}


@pytest.mark.parametrize("responder", TAKEN.values(), ids=TAKEN.keys())
async def test_what_curl_takes_is_taken(responder: Responder, make_fetcher: MakeFetcher, tmp_path: Path) -> None:
    """An odd but complete response brings the video's bytes, with their size and hash."""
    async with running(responder) as server, make_fetcher(_host(server)) as fetcher:
        fetched = await fetcher.fetch_file(f"{server.url}/v.mp4", tmp_path / "v", limit=len(VIDEO), total_seconds=5)
    assert fetched[:2] == (len(VIDEO), hashlib.sha256(VIDEO).hexdigest())
    assert (tmp_path / "v").read_bytes() == VIDEO


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/视频.mp4?sig=a".encode(), "/%E8%A7%86%E9%A2%91.mp4?sig=a"),
        (b"/caf\xe9.mp4?sig=a%2Fb", "/caf%E9.mp4?sig=a%2Fb"),
        (b"   /my  video.mp4  ", "/my%20video.mp4"),
        (b"next.mp4", "/dir/next.mp4"),
        (b"../up.mp4", "/up.mp4"),
        (b"?sig=b", "/dir/v.mp4?sig=b"),
        (b"/x.mp4#t=1", "/x.mp4"),
        (b"/folded\r\n /x.mp4", "/folded%20/x.mp4"),
        (b"/x.mp4\r\nLocation: /y.mp4", "/x.mp4"),
    ],
)
async def test_redirects_are_read_as_browsers_read_them(
    location: bytes, target: str, make_fetcher: MakeFetcher
) -> None:
    """Raw UTF-8, other bytes and blanks are encoded once; relative ones are resolved; of several, the first counts."""
    redirect = _head(b"Location: " + location, b"Content-Length: 0", status=b"302 Found", body=b"")
    async with running(redirect, send(200, b"here")) as server, make_fetcher(_host(server)) as fetcher:
        assert (await fetcher.fetch_bytes(f"{server.url}/dir/v.mp4?sig=x", limit=10)).body == b"here"
        assert server.requests[1].target == target


async def test_a_bomb_uses_no_memory(make_fetcher: MakeFetcher) -> None:
    """Of 64 MB in 64 KB, no more is unpacked at a time than is read."""
    bomb = gzip.compress(bytes(64 << 20))
    async with running(send(200, bomb, Content_Encoding="gzip")) as server, make_fetcher(_host(server)) as fetcher:
        tracemalloc.start()
        with pytest.raises(FetchError, match="too large"):
            await fetcher.fetch_bytes(server.url, limit=1 << 20)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize(
    ("scheme", "responder"),
    [("https", hang), ("http", hang), ("http", send(200, b"half", declared=1000))],
    ids=["handshake", "head", "body"],
)
async def test_silence_and_slowness_have_different_messages(
    scheme: str, responder: Responder, make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that stops sending is reported as such, and not as too slow, whatever it was sending."""
    monkeypatch.setattr("i2v.net.fetcher.SILENCE_SECONDS", 0.2)
    async with running(responder) as server, make_fetcher(_host(server)) as fetcher:
        with pytest.raises(FetchError, match="did not respond or stopped sending"):
            await fetcher.fetch_bytes(f"{scheme}://{_host(server)}/", limit=1000, total_seconds=5)


async def test_a_negative_chunk_does_not_read_the_rest(make_fetcher: MakeFetcher) -> None:
    """After an invalid chunk size, an endless body is not read into memory until the time is over."""
    head = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n"
    async with running(endless(b"x" * 65_536, head)) as server, make_fetcher(_host(server)) as fetcher:
        with pytest.raises(FetchError, match=r"malformed or incomplete|too large"):
            await fetcher.fetch_bytes(server.url, limit=1000, total_seconds=2)


@pytest.mark.parametrize("status", [403, 404, 410, 500])
async def test_an_error_has_the_status(status: int, make_fetcher: MakeFetcher) -> None:
    """An error has the HTTP status, by which the caller recognizes an expired URL."""
    async with running(send(status)) as server, make_fetcher(_host(server)) as fetcher:
        with pytest.raises(FetchError) as caught:
            await fetcher.fetch_bytes(server.url, limit=1)
    assert (caught.value.status, caught.value.forbidden) == (status, False)


async def test_cancelling_leaves_no_file(make_fetcher: MakeFetcher, tmp_path: Path) -> None:
    """Cancelling in the middle of a download deletes the file."""
    path = tmp_path / "v.mp4"
    async with running(drip(200)) as server, make_fetcher(_host(server)) as fetcher:
        task = asyncio.create_task(fetcher.fetch_file(server.url, path, limit=1 << 20))
        await _until(path.exists)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert _file_names(tmp_path) == []


def _fetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fetch")]


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 — threads and files have no event to wait for
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("scheme", "responder"),
    [("http", drip(200, every=60)), ("http", hang), ("https", hang)],
    ids=["body", "head", "handshake"],
)
async def test_cancelling_ends_the_thread(scheme: str, responder: Responder, make_fetcher: MakeFetcher) -> None:
    """Cancelling while the server is silent ends the thread promptly."""
    async with running(responder) as server, make_fetcher(_host(server)) as fetcher:
        task = asyncio.create_task(fetcher.fetch_bytes(f"{scheme}://{_host(server)}", limit=1 << 20))
        await _until(_fetch_threads)
        await asyncio.sleep(0.1)
        task.cancel()
        assert await asyncio.wait({task}, timeout=60) == ({task}, set())
        assert task.cancelled()
    await _until(lambda: not _fetch_threads())


async def test_cancelling_twice_still_waits_for_the_thread(make_fetcher: MakeFetcher, tmp_path: Path) -> None:
    """After a second cancel, too, the thread has stopped writing when the file is deleted."""
    path = tmp_path / "v.mp4"
    async with running(pour(200)) as server, make_fetcher(_host(server)) as fetcher:
        task = asyncio.create_task(fetcher.fetch_file(server.url, path, limit=1 << 40))
        await _until(path.exists)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert _file_names(tmp_path) == []
        await asyncio.sleep(0.05)
    assert _file_names(tmp_path) == []


@pytest.fixture
def unresponsive_host() -> Iterator[str]:
    """host:port where connection attempts get no reply, because the queue is full."""
    with socket.socket() as full, contextlib.ExitStack() as clients:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(2):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        yield f"127.0.0.1:{full.getsockname()[1]}"


async def test_cancelling_while_connecting_leaves_nothing(unresponsive_host: str, make_fetcher: MakeFetcher) -> None:
    """Cancelling a connection attempt that gets no reply returns at once, without a thread."""
    async with make_fetcher(unresponsive_host) as fetcher:
        with pytest.raises(FetchError, match=r"not finished after 0\.2 s"):
            await fetcher.fetch_bytes(f"http://{unresponsive_host}/", limit=10, total_seconds=0.2)
        assert not _fetch_threads()


async def test_a_connection_attempt_has_its_own_limit(
    unresponsive_host: str, make_fetcher: MakeFetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection attempt without a reply ends long before the total time, so that the next address gets a try."""
    monkeypatch.setattr("i2v.net.fetcher.CONNECT_SECONDS", 0.2)
    async with make_fetcher(unresponsive_host) as fetcher:
        with pytest.raises(FetchError, match="did not respond or stopped sending"):
            await fetcher.fetch_bytes(f"http://{unresponsive_host}/", limit=10, total_seconds=5)


async def test_an_existing_file_stays_if_nothing_was_fetched(make_fetcher: MakeFetcher, tmp_path: Path) -> None:
    """A forbidden URL does not delete an existing file."""
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
async def test_private_addresses_are_never_connected_to(url: str, make_fetcher: MakeFetcher) -> None:
    """A private address is forbidden in every spelling, and no connection is made."""
    async with running(send(200)) as server, make_fetcher("127.0.0.1:1", "user:pw@127.0.0.1") as fetcher:
        with pytest.raises(FetchError) as caught:
            await fetcher.fetch_bytes(url.format(port=server.port), limit=10)
        assert caught.value.forbidden
        assert server.connections == 0
        assert "pw" not in str(caught.value)


async def test_a_user_name_is_forbidden_on_an_allowed_host_too(make_fetcher: MakeFetcher) -> None:
    """A URL with a user name or password is forbidden even if its host is allowed, and no connection is made."""
    async with running(send(200)) as server, make_fetcher(_host(server)) as fetcher:
        for user in ("user", "user:pw", ":pw"):
            with pytest.raises(FetchError, match="contains a user name") as caught:
                await fetcher.fetch_bytes(f"http://{user}@{_host(server)}/", limit=10)
            assert caught.value.forbidden
        assert server.connections == 0


async def test_a_redirect_is_checked_like_the_first_url(make_fetcher: MakeFetcher) -> None:
    """A redirect from an allowed host to another port, to public http or to a URL with a password is forbidden."""
    async with running(send(200)) as inner:
        responders = [
            send(302, b"", Location=f"{inner.url}/latest/meta-data"),
            send(302, b"", Location="http://files.example/v.mp4"),
            send(302, b"", Location=f"http://u:p@127.0.0.1:{inner.port}/"),
        ]
        async with running(*responders) as server, make_fetcher(_host(server)) as fetcher:
            for _ in responders:
                with pytest.raises(FetchError) as caught:
                    await fetcher.fetch_bytes(server.url, limit=10)
                assert caught.value.forbidden
        assert inner.connections == 0


async def test_five_redirects_are_followed(make_fetcher: MakeFetcher) -> None:
    """Five redirects are followed, also relative ones, and their bodies are not read."""
    responders = [send(status, b"", declared=1 << 40, Location="/next") for status in (301, 302, 303, 307, 308)]
    async with running(*responders, send(200, b"here")) as server, make_fetcher(_host(server)) as fetcher:
        assert (await fetcher.fetch_bytes(server.url, limit=10)).body == b"here"
        assert [request.target for request in server.requests] == ["/"] + ["/next"] * 5


async def test_the_checked_address_is_the_one_connected_to(
    make_fetcher: MakeFetcher, authority: ssl.SSLContext
) -> None:
    """The host is resolved once, and Host, SNI and the certificate are for its name."""
    lookups: list[str] = []
    sni_names: list[str | None] = []
    authority.sni_callback = lambda _socket, name, _context: sni_names.append(name)

    async def resolve(host: str, _port: int) -> list[str]:
        lookups.append(host)
        return ["127.0.0.1"] if len(lookups) == 1 else ["127.0.0.2"]

    async with running(send(200, b"here"), context=authority) as server:
        async with make_fetcher(f"files.example:{server.port}", resolve=resolve) as fetcher:
            url = f"https://files.example:{server.port}/v.mp4"
            assert (await fetcher.fetch_bytes(url, limit=10)).body == b"here"
        assert server.requests[0].header("host") == f"files.example:{server.port}"
    assert lookups == ["files.example"]
    assert sni_names == ["files.example"]


async def test_a_certificate_of_another_name_is_refused(make_fetcher: MakeFetcher, authority: ssl.SSLContext) -> None:
    """The certificate must be for the URL's host, not for the address."""

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    async with running(send(200, b"here"), context=authority) as server:
        async with make_fetcher("other.example", resolve=resolve) as fetcher:
            with pytest.raises(
                FetchError,
                match=r"https://other\.example:\d+/ could not be fetched: TLS: its certificate is for another host",
            ):
                await fetcher.fetch_bytes(f"https://other.example:{server.port}/?sig", limit=10)
        assert server.requests == []


async def test_a_host_can_be_an_ipv6_address(make_fetcher: MakeFetcher, authority: ssl.SSLContext) -> None:
    """The certificate and the Host header of an IPv6 URL are those of its address."""

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    async with running(send(200, b"here"), context=authority) as server:
        async with make_fetcher(f"[::1]:{server.port}", resolve=resolve) as fetcher:
            assert (await fetcher.fetch_bytes(f"https://[::1]:{server.port}/", limit=10)).body == b"here"
        assert server.requests[0].header("host") == f"[::1]:{server.port}"


async def test_the_next_address_is_tried_after_a_failure(make_fetcher: MakeFetcher) -> None:
    """A host with several addresses is reached at the first one that accepts."""

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async with running(send(200, b"here")) as server, make_fetcher("files.example", resolve=resolve) as fetcher:
        assert (await fetcher.fetch_bytes(f"http://files.example:{server.port}/", limit=10)).body == b"here"


async def test_a_refused_connection_gives_the_url_without_its_query(make_fetcher: MakeFetcher) -> None:
    """The error of a refused connection has the URL without its query."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
        async with make_fetcher(host) as fetcher:
            with pytest.raises(FetchError, match=f"http://{host}/v could not be fetched: Connection") as caught:
                await fetcher.fetch_bytes(f"http://{host}/v?sig=hush", limit=10)
    assert "hush" not in repr(caught.value)
    assert caught.value.__suppress_context__


async def test_no_cookie_or_connection_is_reused(make_fetcher: MakeFetcher) -> None:
    """Each fetch has its own connection and sends no cookie."""
    responder = send(200, b"here", Set_Cookie="session=1; Path=/")
    async with running(responder) as server, make_fetcher(_host(server)) as fetcher:
        for _ in range(3):
            await fetcher.fetch_bytes(server.url, limit=10)
        assert server.connections == 3
        assert [request.header("cookie") for request in server.requests] == ["", "", ""]


async def test_concurrent_fetches_are_limited(make_fetcher: MakeFetcher) -> None:
    """Of 40 fetches, at most 4 run at a time; the others have no connection yet."""
    most, answered = 0, 0

    async def slow(exchange: Any) -> None:
        nonlocal most, answered
        await asyncio.sleep(0.02)
        most = max(most, server.connections - answered)
        answered += 1
        await send(200, b"here")(exchange)

    async with running(slow) as server, make_fetcher(_host(server), connections=4) as fetcher:
        await asyncio.gather(*(fetcher.fetch_bytes(server.url, limit=10) for _ in range(40)))
    assert most == 4


async def test_a_full_disk_is_an_error_and_leaves_no_file(make_fetcher: MakeFetcher, tmp_path: Path) -> None:
    """A write that fails is an error that gives the reason."""
    path = tmp_path / "v.mp4"
    path.symlink_to("/dev/full")  # a link, because the file is deleted
    async with running(send(200, VIDEO)) as server, make_fetcher(_host(server)) as fetcher:
        with pytest.raises(FetchError, match="No space left"):
            await fetcher.fetch_file(server.url, path, limit=1 << 30)
    assert _file_names(tmp_path) == []


@pytest.mark.parametrize(
    "responder",
    [
        send(200),
        raw(b"HTTP/1.1 200 X\r\nNonsense\r\n\r\n"),
        raw(b"HTTP/1.1 200 X\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ],
    ids=["valid", "malformed", "two framings"],
)
async def test_no_log_contains_a_signed_url(
    responder: Responder, make_fetcher: MakeFetcher, caplog: pytest.LogCaptureFixture
) -> None:
    """No query is logged at any level, also for a malformed response."""
    caplog.set_level(logging.DEBUG)
    async with running(responder) as server, make_fetcher(_host(server)) as fetcher:
        with contextlib.suppress(FetchError):
            await fetcher.fetch_bytes(f"{server.url}/?sig=hush", limit=10)
    assert "hush" not in caplog.text
