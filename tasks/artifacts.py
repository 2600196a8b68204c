"""Pages among Prefect's artifacts: `put_page`. Whoever makes one says what is on it, and under which key.

Prefect repeats an artifact's first text in its event feed, so what bears signed links comes with an update, which it
does not repeat.
"""

from __future__ import annotations

import logging

from prefect.artifacts import MarkdownArtifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

log = logging.getLogger(__name__)


async def put_page(key: str, text: str, *, about: str, with_links: str | None = None) -> None:
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
                await client.update_artifact(page.id, ArtifactUpdate(data=with_links))
    except Exception as error:  # noqa: BLE001 - what Prefect answers may repeat the page, so its kind alone is logged
        log.warning("the page %s was not made: %s", key, type(error).__name__)
