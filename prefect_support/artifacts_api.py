"""Create and update Prefect artifacts: `create_page`, `update_artifact`.

Prefect's event feed repeats the first text of an artifact. So signed links are added by an update, sent as a plain
PATCH: Prefect's own update would emit an event with the whole text.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

from prefect.artifacts import MarkdownArtifact
from prefect.client.orchestration import PrefectClient, get_client

log = logging.getLogger(__name__)
REQUEST_SECONDS = 10.0
"""The time limit of an update while the run works; the next one follows soon."""
FINAL_SECONDS = 25.0
"""The last update's limit: a busy server needs longer, but a cancelled run is killed after 30 s."""


class KeyedPage:
    """One markdown artifact that is created by its first text, which must have no signed links, and then updated."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._id: UUID | None = None

    @property
    def exists(self) -> bool:
        """Whether it has its first text."""
        return self._id is not None

    async def write(self, text: str, description: str) -> None:
        """Write the text. Raise what Prefect raises."""
        async with get_client() as client:
            if self._id is None:
                page = MarkdownArtifact(key=self._key, markdown=text, description=description)
                self._id = (await page.acreate(client)).id
            else:
                await update_artifact(client, self._id, data=text, description=description)


async def write_or_drop(work: Coroutine[Any, Any, None], *, final: bool = False) -> None:
    """Await a write with a time limit, and only log the type of its error: its message could contain signed links."""
    try:
        await asyncio.wait_for(work, FINAL_SECONDS if final else REQUEST_SECONDS)
    except Exception as error:  # noqa: BLE001 - an artifact must never fail a run
        level = logging.WARNING if final else logging.DEBUG
        log.log(level, "an artifact is not up to date: %s", type(error).__name__)


async def create_page(key: str, text: str, *, description: str, with_links: str | None = None) -> None:
    """Create the next version of a markdown artifact. A failure is logged and never fails a run.

    `text` has no signed links; `with_links` then replaces it.
    """
    try:
        async with get_client() as client:
            page = await MarkdownArtifact(key=key, markdown=text, description=description).acreate(client)
            if with_links:
                await update_artifact(client, page.id, data=with_links)
    except Exception as error:  # noqa: BLE001 - Prefect's message may repeat the page, so only its type is logged
        log.warning("artifact %s was not created: %s", key, type(error).__name__)


async def update_artifact(
    client: PrefectClient, artifact: UUID, *, data: str | float, description: str | None = None
) -> None:
    """Replace the data of an artifact without an event."""
    changes = {"data": data} | ({"description": description} if description else {})
    await client.request("PATCH", "/artifacts/{id}", path_params={"id": artifact}, json=changes)
