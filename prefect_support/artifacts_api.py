"""Pages among Prefect's artifacts: `create_page`. Whoever makes one says what is on it, and under which key.

Prefect repeats the first text of an artifact with a key in its event feed, so what bears signed links comes with an
update; and as its client tells the feed of each update with all its text, `update_artifact` asks the server itself.
"""

from __future__ import annotations

import logging
from uuid import UUID

from prefect.artifacts import MarkdownArtifact
from prefect.client.orchestration import PrefectClient, get_client

log = logging.getLogger(__name__)


async def create_page(key: str, text: str, *, about: str, with_links: str | None = None) -> None:
    """Put a page under a key, where earlier ones stay; a page is never worth a run, so a failure is logged alone.

    Args:
        key: what the Artifacts page lists it under.
        text: the page without signed links.
        about: the page in a sentence.
        with_links: the page as it shall be in the end.
    """
    try:
        async with get_client() as client:
            page = await MarkdownArtifact(key=key, markdown=text, description=about).acreate(client)
            if with_links:
                await update_artifact(client, page.id, data=with_links)
    except Exception as error:  # noqa: BLE001 - what Prefect answers may repeat the page, so its kind alone is logged
        log.warning("the page %s was not made: %s", key, type(error).__name__)


async def update_artifact(
    client: PrefectClient, artifact: UUID, *, data: str | float, description: str | None = None
) -> None:
    """Replace what an artifact says, without an event."""
    changes = {"data": data} | ({"description": description} if description else {})
    await client.request("PATCH", "/artifacts/{id}", path_params={"id": artifact}, json=changes)
