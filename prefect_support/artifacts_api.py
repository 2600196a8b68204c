"""Create and update Prefect artifacts: `create_page`, `update_artifact`.

Prefect's event feed repeats the first text of an artifact. So signed links are added by an update, sent as a plain
PATCH: Prefect's own update would emit an event with the whole text.
"""

import logging
from uuid import UUID

from prefect.artifacts import MarkdownArtifact
from prefect.client.orchestration import PrefectClient, get_client

log = logging.getLogger(__name__)


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
