"""Links lead to the UI that a server shows: below `/v2` on one's own server, without it in Prefect Cloud."""

from __future__ import annotations

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

from i2v.cli.prefect.ui_links import flow_run_url

RUN = "0b5e0f3c-7a55-4a0e-9f0e-0d3f3c2f1a11"
CLOUD_API = "https://api.prefect.cloud/api/accounts/a/workspaces/w"


@pytest.mark.parametrize(
    ("api", "ui", "start"),
    [
        ("http://10.0.0.1:4200/api", None, "http://10.0.0.1:4200/v2/"),
        ("http://10.0.0.1:4200/api", "https://prefect.example.com/", "https://prefect.example.com/v2/"),
        ("http://10.0.0.1:4200/api", "https://example.com/flows/v2", "https://example.com/flows/v2/"),
        (CLOUD_API, None, "https://app.prefect.cloud/account/a/workspace/w/"),
    ],
)
def test_a_run_has_a_link_to_the_current_ui(api: str, ui: str | None, start: str) -> None:
    """PREFECT_UI_URL counts, else the address of the API."""
    settings = {PREFECT_API_URL: api} | ({PREFECT_UI_URL: ui} if ui else {})
    with temporary_settings(settings):
        assert flow_run_url(RUN) == f"{start}runs/flow-run/{RUN}"
