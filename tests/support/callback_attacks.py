"""Forged, malformed, replayed and truncated callbacks."""

from __future__ import annotations

import asyncio
import json
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import httpx
import hypothesis
from hypothesis import strategies as st

from i2v.apixo.callbacks import BODY_LIMIT_BYTES, callback_url
from i2v.settings import Settings

MAX_CONCURRENT = 8
METHODS = ("POST", "POST", "POST", "GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND")
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner), max_leaves=9)
DATA = st.fixed_dictionaries({}, optional={"taskId": VALUES, "state": VALUES, "resultJson": VALUES}) | VALUES
BODIES = st.binary(max_size=400) | (st.fixed_dictionaries({"data": DATA}) | VALUES).map(
    lambda value: json.dumps(value).encode()
)


class Attack(NamedTuple):
    """One request and its expected status."""

    method: str
    address: str
    body: bytes
    status: int


def list_attacks(settings: Settings, jobs: tuple[str, str], task_id: str) -> list[Attack]:
    """Return attacks on the first of two jobs, whose task id is known. The last request is valid."""
    one, other = (callback_url(settings, job, 1) for job in jobs)
    base, signature = one.rpartition("/")[0], one.rpartition("/")[2]
    valid = json.dumps({"code": 200, "data": {"taskId": task_id, "state": "success"}}).encode()
    invented = json.dumps({"data": {"taskId": "task_1"}}).encode()
    wrong = [
        f"{base}/{other.rpartition('/')[2]}",
        f"{base[:-1]}2/{signature}",
        *(
            f"{base}/{bad}"
            for bad in (signature[:-1], signature.upper(), signature[::-1], "%00" * 9, "é" * 64, "x" * 5000)
        ),
        f"{base.replace(jobs[0], jobs[1])}/{signature}",
        f"{base[:-1]}-1/{signature}",
        f"{base[:-1]}%31%30/{signature}",
        f"{base}//{signature}",
        f"{base}/{signature}/",
        f"{base}/../1/{'0' * 64}",
        callback_url(settings, "0" * 64, 1),
        callback_url(settings, jobs[0], 2),
    ]
    return [
        *(Attack("POST", address, valid, 404) for address in wrong),
        *(Attack(method, one, valid, 405) for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS")),
        *(Attack("POST", one, content, 400) for content in _malformed()),
        Attack("POST", one, invented, 200),  # valid, but another job's task starts no run
        Attack("POST", one, b" " * (BODY_LIMIT_BYTES + 1), 413),
        Attack("POST", f"{base}/{'0' * 64}", b" " * (BODY_LIMIT_BYTES + 1), 404),
        Attack("POST", one, valid, 200),
    ]


def _malformed() -> list[bytes]:
    bodies = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"data": 1}', b'{"data": {}}', b'{"data": {"taskId": 7.5}}']
    bodies += [b'{"data": {"taskId": ""}}', b"[" * 100_000, b'{"data": {"taskId": "' + b"x" * 5000 + b'"}}']
    bodies += [b'{"data": ' * 100_000, b'{"data": {"taskId": ' + b"9" * 100_000 + b"}}"]
    return [*bodies, '{"data": {"taskId": "täsk\\u0000"}}'.encode(), b'{"data": {"taskId": "\\ud800"}}']


async def send_attacks(client: httpx.AsyncClient, attacks: list[Attack]) -> None:
    """Send all attacks, and check that each response has the expected status and no body."""
    slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def one(attack: Attack) -> None:
        async with slots:
            response = await client.request(attack.method, attack.address, content=attack.body)
        shown = (attack.method, attack.address[-80:], attack.body[:60], response.status_code)
        assert response.status_code == attack.status, shown
        is_below = "/apixo/" in str(response.request.url)  # httpx resolves `..`
        assert response.content == b"" or not is_below, response.content

    await asyncio.gather(*map(one, attacks))


def send_random_attacks(count: int, settings: Settings, jobs: tuple[str, str]) -> None:
    """Send random callbacks: wrong URLs with any body, and the right URL with a wrong body."""
    own, other = (callback_url(settings, job, 1).split("/")[-3:] for job in jobs)
    base = str(settings.callback_base_url)
    job = st.sampled_from([own[0], other[0], own[0].upper()]) | st.text(max_size=70)
    attempt = st.sampled_from(["1", "2", "01", "1e0"]) | st.integers().map(str) | st.text(max_size=5)
    signature = st.sampled_from([own[2], other[2], own[2][:-1], own[2] + "0"]) | st.text(max_size=70)
    parts = st.tuples(job, attempt, signature).map(list) | st.just(own)

    with httpx.Client(trust_env=False, timeout=30) as client:

        @hypothesis.settings(max_examples=count, deadline=None, database=None)
        @hypothesis.given(parts=parts, method=st.sampled_from(METHODS), body=BODIES)
        def attack(parts: list[str], method: str, body: bytes) -> None:
            hypothesis.assume(parts != other)
            path = "/".join(quote(part, safe="", errors="surrogatepass") for part in parts)
            response = client.request(method, f"{base}/apixo/{path}", content=body)
            assert response.status_code in _expected(parts == own, method), (method, path, body)

        attack()


def _expected(is_signed: bool, method: str) -> set[int]:
    if not is_signed:
        return {404, 405}
    return {200, 400} if method == "POST" else {405}  # 200: a well-formed task id of another job


async def send_truncated(address: str, count: int) -> None:
    """Send the right URL, and close the connection within the body."""
    parts = urlsplit(address)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 500\r\n\r\n"
    for _ in range(count):
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(head.encode() + b'{"data": {"taskId": ')
        await writer.drain()
        writer.close()
        await writer.wait_closed()
