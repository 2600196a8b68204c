"""A gallery on a real socket over the sandbox's S3: a client, run pages to show, and parsers for the HTML."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import httpx
import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette

from doors.gallery.routes import gallery_routes
from i2v.ledger import keys
from i2v.reports.recent import RecentItem, RecentPage
from i2v.reports.run_report import Outcome
from i2v.request import Mode
from i2v.s3.storage import Storage
from i2v.settings import Settings
from sandbox import Sandbox
from sandbox.server import NO_TLS
from tests.support.s3_requests import counted

TOKEN = "a-token-of-the-gallery's-tests"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


class GalleryClient:
    """An HTTP client of the gallery."""

    def __init__(self, client: httpx.AsyncClient, requests: Counter[str]) -> None:
        self.http = client
        self.requests = requests
        """The gallery's S3 requests by operation."""

    async def get(self, path: str = "/gallery", *, token: str | None = TOKEN, **headers: str) -> httpx.Response:
        """Send a GET request with the bearer token."""
        bearer = {"Authorization": f"Bearer {token}"} if token else {}
        return await self.http.get(path, headers=bearer | headers)

    async def log_in(self, token: str = TOKEN, to: str = "/gallery", **headers: str) -> httpx.Response:
        """Submit the login form."""
        return await self.http.post("/gallery/login", data={"token": token, "to": to}, headers=headers)


@asynccontextmanager
async def open_gallery(settings: Settings, **changes: Any) -> AsyncIterator[GalleryClient]:
    """Serve a gallery without a door; keywords change the settings."""
    own = settings.model_copy(update={"gallery_token": SecretStr(TOKEN), **changes})
    with Storage() as storage:
        app = Starlette(routes=gallery_routes(own, storage, "https://prefect.example/{}".format))
        async with _served(app) as url, httpx.AsyncClient(base_url=url, trust_env=False, verify=NO_TLS) as client:
            yield GalleryClient(client, counted(storage))


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to pytest."""
        yield


@asynccontextmanager
async def _served(app: Starlette) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = _Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        await serving


def write_run_page(
    sandbox: Sandbox, settings: Settings, number: int, images: list[str], at: datetime = NOON, **changes: Any
) -> None:
    """Write a run's page with a video for each image; later runs have higher numbers."""
    started_at = at + timedelta(minutes=number)
    items = tuple(
        RecentItem.model_validate(
            {
                "image": f"s3://{sandbox.bucket}/images/{image}",
                "outcome": Outcome.STORED,
                "at": started_at,
                "video": f"s3://{sandbox.bucket}/videos/{image}/0-0.mp4",
                "mode": Mode.STANDARD,
                "duration": 6,
                **changes,
            }
        )
        for image in images
    )
    page = RecentPage(run_id=f"run-{number}", started_at=started_at, items=items)
    key = keys.recent_page_uri(settings, started_at, page.run_id).key
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=key, Body=page.model_dump_json().encode())


def card_names(response: httpx.Response) -> list[str]:
    """Return the names on the cards, in order."""
    assert response.status_code == 200, response.text
    return [unescape(name) for name in re.findall(r'data-outcome="\w+" data-name="([^"]*)"', response.text)]


def older_link(response: httpx.Response) -> str | None:
    """Return the link to the next page, if there is one."""
    found = re.search(r'id="older" rel="next" href="([^"]+)"', response.text)
    return unescape(found[1]) if found else None


def card_links(response: httpx.Response, image: str) -> tuple[str, str, str]:
    """Return the links to an image's details, video and poster."""
    card = response.text.split(f'data-name="{image}"')[1]
    found = re.search(r'href="([^"]+)" data-details data-video="([^"]+)".*?<img src="([^"]+)"', card, re.DOTALL)
    assert found
    return unescape(found[1]), unescape(found[2]), unescape(found[3])
