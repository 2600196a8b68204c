"""Fixtures for browser tests: one set of servers and one Chromium for all of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from tests.support.browser_page import DESK, OpenPage, Visit
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


@pytest.fixture(scope="session")
def a_world(no_outside: None) -> Iterator[World]:
    """Start the servers once for all browser tests, which change nothing."""
    with world() as made:
        yield made


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start the system's Chromium, headless."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail("there is no Chromium: make test-ui says how to get one", pytrace=False)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def new_visit(browser: Browser) -> Iterator[OpenPage]:
    """Open a page in a new browser context, closed after the test: `new_visit(viewport=PHONE, has_touch=True)`."""
    contexts: list[BrowserContext] = []

    def new(**options: object) -> Visit:
        context = browser.new_context(**{"viewport": DESK, "locale": "en-GB", **options})  # type: ignore[arg-type]
        contexts.append(context)
        return Visit(context)

    yield new
    for context in contexts:
        context.close()


@pytest.fixture
def gallery(a_world: World, new_visit: OpenPage) -> Iterator[Callable[..., Visit]]:
    """Open the gallery and log in; afterwards, check that no other host was requested and no error was logged."""
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
