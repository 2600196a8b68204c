"""What tests with a browser share: one world, one Chromium, and pages that say what they asked of whom."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, Request, sync_playwright

from tests.support.paths import ROOT
from tests.support.ui_world import TOKEN, World, world

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 30_000
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 375, "height": 720}
QUALITY = 82


@pytest.fixture(scope="session")
def a_world(no_outside: None) -> Iterator[World]:
    """The one world of all these tests, which only look at it."""
    with world() as made:
        yield made


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium, without a window."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail("there is no Chromium: make test-ui says how to get one", pytrace=False)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


class Visit:
    """A browser's window of its own: its page, and what it asked of which hosts."""

    def __init__(self, context: BrowserContext) -> None:
        context.set_default_timeout(PATIENCE_MS)
        self.hosts: set[str] = set()
        self.complaints: list[str] = []
        context.on("request", self._asked)
        self.page: Page = context.new_page()
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._interrupted)

    def _interrupted(self, dialog: Dialog) -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()

    def _asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in {"data", "blob"}:
            self.hosts.add(parts.netloc)


NEW_VISIT = Callable[..., Visit]


@pytest.fixture
def new_visit(browser: Browser) -> Iterator[NEW_VISIT]:
    """Open a window: `new_visit(viewport=PHONE, has_touch=True)`; it is closed after the test."""
    contexts: list[BrowserContext] = []

    def new(**options: object) -> Visit:
        context = browser.new_context(**{"viewport": DESK, "locale": "en-GB", **options})  # type: ignore[arg-type]
        contexts.append(context)
        return Visit(context)

    yield new
    for context in contexts:
        context.close()


@pytest.fixture
def gallery(a_world: World, new_visit: NEW_VISIT) -> Iterator[Callable[..., Visit]]:
    """Open the gallery and log in; afterwards nothing was asked of another host, and the browser did not complain."""
    visits: list[Visit] = []

    def enter(path: str = "/gallery", **options: object) -> Visit:
        visit = new_visit(**options)
        visits.append(visit)
        visit.page.goto(a_world.door.url + path)
        visit.page.fill("#token", TOKEN)
        visit.page.click("#login button")
        visit.page.wait_for_selector("#logout")
        return visit

    yield enter
    for visit in visits:
        assert visit.hosts == {urlsplit(a_world.door.url).netloc, a_world.s3_host}
        assert [words for words in visit.complaints if "401" not in words] == []


def keep_screenshot(page: Page, name: str, **options: object) -> None:
    """Keep what is seen as `name.webp` in the folder that SCREENSHOTS names, else in `.sandbox/screenshots`."""
    folder = ROOT / os.environ.get("SCREENSHOTS", ".sandbox/screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(page.screenshot(**options))) as shot:  # type: ignore[arg-type]
        shot.save(Path(folder) / f"{name}.webp", quality=QUALITY, method=6)
