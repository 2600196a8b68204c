"""A browser page that records requested hosts and console errors, and takes screenshots."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import BrowserContext, Dialog, Page, Request

from tests.support.paths import ROOT

PATIENCE_MS = 30_000
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 375, "height": 720}
QUALITY = 82


class Visit:
    """A page in its own browser window, with the hosts it requested and the errors it logged."""

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


OpenPage = Callable[..., Visit]


def keep_screenshot(page: Page, name: str, **options: object) -> None:
    """Save a screenshot as `name.webp` in the folder SCREENSHOTS, by default `.sandbox/screenshots`."""
    folder = ROOT / os.environ.get("SCREENSHOTS", ".sandbox/screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(page.screenshot(**options))) as shot:  # type: ignore[arg-type]
        shot.save(Path(folder) / f"{name}.webp", quality=QUALITY, method=6)
