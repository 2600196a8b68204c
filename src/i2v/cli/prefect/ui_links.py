"""Links to Prefect's UI. A self-hosted server has its current UI below `/v2`, which Prefect's `url_for` leaves out."""

from uuid import UUID

from prefect.client.base import ServerType, determine_server_type
from prefect.settings import PREFECT_UI_URL
from prefect.utilities.urls import url_for

CURRENT_UI = "/v2"


def flow_run_url(run_id: UUID | str) -> str | None:
    """Return the page of a flow run; `None` if neither PREFECT_UI_URL nor PREFECT_API_URL is set."""
    base = (PREFECT_UI_URL.value() or "").rstrip("/")
    url = url_for("flow-run", obj_id=run_id) if base else None
    if url is None or base.endswith(CURRENT_UI) or determine_server_type() is ServerType.CLOUD:
        return url
    return url.replace(base, base + CURRENT_UI, 1)
